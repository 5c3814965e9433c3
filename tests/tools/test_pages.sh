#!/bin/bash
# test_pages.sh: the man page and the completion in the tree are those that the command table makes; help that cannot be written is an error.
set -u
kvqctl=$1 source=$2 failed=0
check() { # page, committed file
  if ! cmp -s <("$kvqctl" help "$1") "$source/$2"; then
    echo "$2 is not what the command table makes: run '$kvqctl help $1 > $2'"
    failed=1
  fi
}
check --man packaging/man/kvqctl.1
check --completion packaging/completion/kvqctl
for words in --version help 'help ask' 'ask --help' 'help --man'; do
  # shellcheck disable=SC2086  # words
  if "$kvqctl" $words >/dev/full 2>/dev/null; then
    echo "kvqctl $words: exit status 0, though nothing could be written"
    failed=1
  fi
done
bash -n "$source/packaging/completion/kvqctl" || failed=1

# The completion at work: words, an option's names. (A function named complete would call itself: the sourced file calls the builtin.)
completed() { # words of the line; the last is being completed
  (source "$source/packaging/completion/kvqctl"
   COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
   _kvqctl
   echo "${COMPREPLY[*]}")
}
expect() { # expected, words
  local expected=$1 got
  shift
  got=$(completed "$@")
  [ "$got" = "$expected" ] || { echo "completing '$*': got '$got', expected '$expected'"; failed=1; }
}
expect "tokenize" kvqctl tok
expect "--batch --backend --block" kvqctl bench --b
expect "lmdeploy8 lmdeploy4" kvqctl run --kv l
expect "auto cpu cuda" kvqctl run --backend ""
exit $failed
