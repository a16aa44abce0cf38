// SPDX-License-Identifier: GPL-2.0-only
#include <getopt.h>
#include <time.h>

#include "vm.h"

static const char usage[] =
	"usage: memslots [--seed N] [--save FILE] TEST\n"
	"\n"
	"  --directed        a test an operation and an error path\n"
	"  --random N        N requests at random; a sequence that fails is\n"
	"                    shrunk and written to FILE\n"
	"  --replay FILE...  the requests of files, as written to FILE\n"
	"  --print FILE...   the same as text\n"
	"  --threads N       readers against a writer for N seconds\n";

static int replay(char **paths)
{
	unsigned int nr = 0, failed = 0;

	if (paths[0] && !paths[1])
		return script_replay(paths[0], true);

	for (; *paths; paths++) {
		nr++;
		if (script_replay(*paths, false)) {
			fprintf(stderr, "# %s fails\n", *paths);
			failed++;
		}
	}
	printf("%sok - %u files replayed\n", failed ? "not " : "", nr);
	return failed;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "directed", no_argument, NULL, 'd' },
		{ "random", required_argument, NULL, 'r' },
		{ "replay", no_argument, NULL, 'p' },
		{ "print", no_argument, NULL, 'c' },
		{ "threads", required_argument, NULL, 't' },
		{ "seed", required_argument, NULL, 's' },
		{ "save", required_argument, NULL, 'o' },
		{}
	};
	const char *save = "failed";
	u64 seed = time(NULL);
	unsigned long nr = 0;
	int option, test = 0;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 's':
			seed = strtoull(optarg, NULL, 0);
			break;
		case 'o':
			save = optarg;
			break;
		case 'r':
		case 't':
			nr = strtoul(optarg, NULL, 0);
			test = option;
			break;
		case 'c':
		case 'd':
		case 'p':
			test = option;
			break;
		default:
			test = 0;
			optind = argc;
			break;
		}
	}

	switch (test) {
	case 'c':
		for (; optind < argc; optind++)
			script_print(argv[optind]);
		return 0;
	case 'd':
		return directed_main();
	case 'r':
		return script_random(nr, seed, save);
	case 'p':
		return replay(argv + optind);
	case 't':
		return threads_main(nr, seed);
	default:
		fputs(usage, stderr);
		return 2;
	}
}
