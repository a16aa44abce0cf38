# SPDX-License-Identifier: GPL-2.0-only
#
# More goals, for a kernel whose ioctls get random requests (script.c).
#
# make fuzz           libFuzzer, for FUZZ_SECONDS, into the corpus
# make corpus         keep what that found
# make native         NATIVE.c, linked with the container

FUZZ_SECONDS ?= 300
CLANG ?= clang
SCRIPTS := yes

comma := ,
fuzz := $(CLANG) -O1 -g -fsanitize=fuzzer,address,undefined \
	-fno-sanitize-recover=all
$(eval $(call flavour,fuzz,$(patsubst main.c,fuzz.c,$(TESTS)),\
	-Wl$(comma)--defsym=LLVMFuzzerTestOneInput=fuzz_script))

# Empty if there is no libFuzzer.
FUZZ = $(if $(shell echo 'int LLVMFuzzerTestOneInput(void) { return 0; }' | \
	$(CLANG) -fsanitize=fuzzer -x c -o /dev/null - 2>/dev/null && echo yes),\
	$(O)/fuzz/memslots)

.PHONY: fuzz corpus native

fuzz: $(O)/fuzz/memslots
	@mkdir -p $(O)/corpus
	$< -max_total_time=$(FUZZ_SECONDS) -max_len=900 -seed=$(SEED) \
		-artifact_prefix=$(O)/fuzz/ $(O)/corpus ./corpus

# Keep what the fuzzer found, a few lines for each edge, in a few files of text.
corpus: $(O)/fuzz/memslots $(O)/fast/memslots
	rm -rf $(O)/merged
	mkdir $(O)/merged
	$< -merge=1 -use_counters=0 -max_len=900 $(O)/merged $(O)/corpus ./corpus
	rm -f corpus/*
	ls $(O)/merged/* | xargs -n 16 | awk '{ \
		printf "$(O)/fast/memslots --print %s >corpus/%02d\n", $$0, NR \
	}' | sh

# Of what is built as in the kernel, shim.o and the container alone.
native: $(O)/native
$(O)/native: $(NATIVE) $(patsubst %.c,$(O)/fast/%.o,shim.c virt/kvm/memslots.c \
		$(LIBRARY))
	@$(fast) $(CPPFLAGS) $(CFLAGS) -o $@ $^
