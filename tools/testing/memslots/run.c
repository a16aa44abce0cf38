// SPDX-License-Identifier: GPL-2.0-only
/* Run each directed test in a process of its own. */
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"

int directed_main(void)
{
	const struct directed_test *const *group, *test;
	bool failed = false;
	unsigned int nr = 0;
	int status;

	for (group = directed_groups; *group; group++) {
		for (test = *group; test->name; test++) {
			fflush(NULL);
			if (!fork()) {
				alarm(300);
				directed_run(test);
				exit(0);
			}
			wait(&status);
			printf("%sok %u - %s\n", status ? "not " : "", ++nr,
			       test->name);
			failed |= status;
		}
	}
	printf("1..%u\n", nr);
	return failed;
}
