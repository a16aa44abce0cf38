# SPDX-License-Identifier: GPL-2.0
# Each target is a program under scripts/, which has --help.

.PHONY: help clean distclean
help:
	@sed -n 's/^#: \{0,1\}//p' Makefile

#: make run                          the main job: pristine and patched kernel, built, booted, tested, side by side
#: make check [MINUTES=70]           the test suite (what CI runs); skips what would start after so many minutes
#: make check-all                    that of each base in turn, hours
#: make breaks [BASE=] [TESTS="logs"]   leave out a part of the series, or open a window by a delay: a test must notice
#: make torture [MINUTES=30]         stress, failing allocations, data races, fuzzing and guests, for that long
#: make fuzz [MINUTES=5]             libFuzzer on the memslots in user space
#: make build-each [STEPS=8-10]      compile each step for each architecture [ARCHS="s390 ppc64"], and boot it [LINK=1]
#:                                  [QUICK=1: what the step changes, and parse what includes it]
#:
#: make bench [PEERS=6.1]            what operations cost over the number of slots: table, JSON, plots
#: make bench-native                 the container alone, on this machine's processor
#: make bench-steps [STEPS=8-14]     what each step changes
#: make bench-latency [BASE=] [CPU=] [MODE=]   how long vCPUs stand still while their map changes: table, JSON, plot
#:
#: make tree                         base and series as a git tree, one commit a step
#: make refresh                      the way back: patches/ and new files from the edited tree
#: make kernel [SERIES=0|N]          build a kernel: pristine (0), after step N, or the whole series
#: make selftests                    build KVM's selftests, static
#: make boot [TESTS="a b"] [APPEND=] boot that kernel, run selftests [CPU=amd MODE=npt|npt0|tdp_mmu|legacy]
#:                                  [CPU=intel MODE=ept|ept0|tdp_mmu|legacy]
#: make guest [ROUNDS=10]            run a QEMU guest with -accel kvm on it: DIMMs, virtio-mem, migration
#: make guest QEMU="distribution own" [ATOMIC="on off"] [MACHINE="pc q35"]   its RAM is split and merged all the time
#: make guest GAP=30                how long vCPUs of our QEMU stand still when it changes the memory map: table and plot
#: make guest TRUST=20 CONFIG=debug  kill our QEMU 20 times while KVM switches its map, let its allocations fail
#: make qemu                         build QEMU with its series (BASE=qemu-v10.0)
#: make bundle                       kernels, tests and benchmarks for people with real processors, one archive
#: make series                       the series as mails for git am
#: make am LINUX=DIR                 apply them to your kernel tree
#: make lint                         checkpatch, shellcheck, pyflakes, codespell
#: make clean, make distclean        remove what was built; remove downloads and the tree too
#:
#: BASE=v5.10 selects the kernel to work on, LINUX_SRC=DIR|TARBALL gives its source instead of a download,
#: CONFIG=debug builds and boots with KASAN, lockdep and friends, CONFIG=kcsan with the data race detector. Logs and
#: results are under out/.

# A target: the packages that it needs, and its program.
define target
.PHONY: $(1)
$(1):
	@scripts/install-deps $(2)
	@scripts/$(3)
endef
$(eval $(call target,run,core build boot,run.py))
$(eval $(call target,check,core build boot lint harness cross arm64,check.py))
.PHONY: check-all
check-all:
	@set -e; for base in patches/*/base; do [ ! -e $${base%base}series ] || $(MAKE) check BASE=$$(basename $${base%/base}); done
$(eval $(call target,breaks,core build boot,breaks.py))
$(eval $(call target,torture,core build boot harness,torture.py))
$(eval $(call target,fuzz,core harness,torture.py fuzz))
$(eval $(call target,build-each bisect,core build boot cross lint,build_each.py))
$(eval $(call target,bench,core build boot bench,bench.py bench))
$(eval $(call target,bench-steps merits,core build boot bench,bench.py bench-steps))
$(eval $(call target,bench-latency,core build boot bench,bench.py latency))
$(eval $(call target,bench-native,core harness bench,bench.py native))
$(eval $(call target,tree,core,tree.py))
$(eval $(call target,series am refresh,core,series.py $$@))
$(eval $(call target,kernel selftests,core build,kernel.py $$@))
$(eval $(call target,boot guest,core build boot,boot.py $$@))
$(eval $(call target,qemu,core qemu,qemu.py))
$(eval $(call target,bundle,core build boot bundle,bundle.py))
$(eval $(call target,lint,core lint,lint.py))

clean:
	@rm -rf out/*/build out/*/memslots out/*/src out/*/selftests out/*/boot out/*/mails out/check out/build-each out/bundle out/log
	@for tree in out/*/linux out/*/qemu; do [ ! -d "$$tree" ] || git -C "$$tree" worktree prune; done

# What was edited in the tree and not taken into patches/ is not thrown away.
distclean:
	@[ ! -d out ] || scripts/tree.py --forget
	@rm -rf out
