// SPDX-License-Identifier: GPL-2.0
/* kexec KERNEL INITRD PARAMETERS: start that kernel now. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int kernel, initrd;

	if (argc != 4) {
		fprintf(stderr, "usage: kexec KERNEL INITRD PARAMETERS\n");
		return 2;
	}

	kernel = open(argv[1], O_RDONLY | O_CLOEXEC);
	initrd = open(argv[2], O_RDONLY | O_CLOEXEC);
	if (kernel < 0 || initrd < 0 ||
	    syscall(SYS_kexec_file_load, kernel, initrd, strlen(argv[3]) + 1,
		    argv[3], 0UL)) {
		fprintf(stderr, "kexec: %s cannot be loaded: %s\n", argv[1],
			strerror(errno));
		return 1;
	}

	sync();
	reboot(RB_KEXEC);
	fprintf(stderr, "kexec: %s did not start: %s\n", argv[1],
		strerror(errno));
	return 1;
}
