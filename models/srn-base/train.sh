#!/bin/sh
# Trains srn-base from random weights, stage by stage: train.sh PHOTOS OUT
set -eu
here=$(dirname "$0")
photos=$1 out=$2
deblur-deploy train "$here/stages/1-small.toml" --data "$photos" --out "$out/1"
deblur-deploy train "$here/stages/2-wider.toml" --init "$out/1" --data "$photos" --out "$out/2"
deblur-deploy train "$here/stages/3-longer.toml" --init "$out/2" --data "$photos" --out "$out/3"
deblur-deploy train "$here/stages/4-stem.toml" --init "$out/3" --data "$photos" --out "$out/4"
deblur-deploy train "$here/stages/5-mixture.toml" --init "$out/4" --data "$photos" --out "$out/5"
deblur-deploy train "$here/recipe.toml" --init "$out/5" --data "$photos" --out "$out/srn-base"
