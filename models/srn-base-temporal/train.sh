#!/bin/sh
# Trains srn-base-temporal from srn-base: train.sh PHOTOS OUT
set -eu
here=$(dirname "$0")
photos=$1 out=$2
deblur-deploy train "$here/recipe.toml" --init "$here/../srn-base" --data "$photos" --out "$out/srn-base-temporal"
