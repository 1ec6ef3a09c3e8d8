"""``python -m deblur_deploy.cli``, for launchers that take a module, such as ``accelerate launch -m``."""

from deblur_deploy.cli import main

if __name__ == "__main__":
    main()
