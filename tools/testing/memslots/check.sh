#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Run what "make check" consists of, see the Makefile, which sets the variables.
# Prints TAP, and sums it up in the last line.

set -- --seed "$SEED" --save "$O/failed"
tap=$O/check.tap

# A program says itself what is not ok, unless it dies.
run()
{
	output=$O/output-${1##*/}
	"$@" >"$output"
	status=$?
	cat "$output"
	[ $status -eq 0 ] || grep -q '^not ok' "$output" ||
		echo "not ok - status $status of $*"
}

fuzz()
{
	if ! [ -x "$O/fuzz/memslots" ]; then
		echo "ok - fuzzing # SKIP no clang with libFuzzer"
		return
	fi
	mkdir -p "$O/corpus"
	if "$O/fuzz/memslots" -max_total_time="$1" -max_len=900 -seed="$SEED" \
	   -artifact_prefix="$O/fuzz/" "$O/corpus" ./corpus >"$O/fuzz.log" 2>&1
	then
		sed -n '$s/^Done/ok - fuzzing:/p' "$O/fuzz.log"
	else
		sed 's/^/# /' "$O/fuzz.log" >&2
		echo "not ok - fuzzing"
	fi
}

# Not for x86_64 alone: longs of 32 bits, and numbers of 64 bits in two halves.
narrow()
{
	if ! [ -x "$O/m32/memslots" ]; then
		echo "ok - 32-bit # SKIP no gcc -m32 whose programs run here"
		return
	fi
	run "$O/m32/memslots" "$@"
}

scripts()
{
	run "$O/asan/memslots" --replay corpus/*
	run "$O/fast/memslots" "$@" --random "$RANDOM_REQUESTS"
	run "$O/asan/memslots" "$@" --random 100000
	narrow --replay corpus/*
	narrow "$@" --random 30000
	run "$O/asan/memslots" "$@" --threads 5
	run "$O/tsan/memslots" "$@" --threads 10
	fuzz 10
}

{
	# The model takes as long as much of the rest.
	[ -z "$MODEL" ] || run "$MODEL" >"$O/model.tap" &
	run "$O/asan/memslots" --directed
	narrow --directed
	run "$O/tsan/memslots" --directed
	[ -z "$SCRIPTS" ] || scripts "$@"
	run "$MAKE" -s coverage
	run ./mutation.sh --list
	wait
	[ -z "$MODEL" ] || cat "$O/model.tap"
} | tee "$tap"

passed=$(grep -c '^ok' "$tap")
skipped=$(grep -c '^ok.*# SKIP' "$tap")
failed=$(grep -c '^not ok' "$tap")
printf "%d passed, %d failed, %d skipped\n" $((passed - skipped)) \
	"$failed" "$skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
