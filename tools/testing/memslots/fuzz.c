// SPDX-License-Identifier: GPL-2.0-only
/* Scripts from libFuzzer, for which the Makefile gives this its name. */
#include <stdint.h>

#include "vm.h"

int fuzz_script(const uint8_t *data, size_t size);

int fuzz_script(const uint8_t *data, size_t size)
{
	script_run(data, size, false);
	return 0;
}
