// SPDX-License-Identifier: GPL-2.0
/* kexec KERNEL INITRD PARAMETERS: start that kernel now. */
#include <err.h>
#include <fcntl.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int kernel, initrd;

	if (argc != 4)
		errx(2, "usage: kexec KERNEL INITRD PARAMETERS");
	kernel = open(argv[1], O_RDONLY | O_CLOEXEC);
	initrd = open(argv[2], O_RDONLY | O_CLOEXEC);
	if (kernel < 0 || initrd < 0 || syscall(SYS_kexec_file_load, kernel, initrd, strlen(argv[3]) + 1, argv[3], 0UL))
		err(1, "%s cannot be loaded", argv[1]);
	sync();
	reboot(RB_KEXEC);
	err(1, "%s did not start", argv[1]);
}
