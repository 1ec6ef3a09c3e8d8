#!/bin/sh
# Trains srn-demo: train.sh PHOTOS OUT, where OUT is that of ../srn-base/train.sh, which has run
set -eu
here=$(dirname "$0")
photos=$1 out=$2
deblur-deploy train "$here/stages/1-base.toml" --init "$out/5" --data "$photos" --out "$out/demo-1"
deblur-deploy prune "$out/demo-1" --keep 0.75 --steps 0 --out "$out/demo-2"
deblur-deploy train "$here/recipe.toml" --init "$out/demo-2" --data "$photos" --out "$out/srn-demo"
