# SPDX-License-Identifier: GPL-2.0
"""Where the source of a base comes from: Debian's archive, or what LINUX_SRC or QEMU_SRC names."""

import re
import subprocess
from pathlib import Path

from workshop import OUT, Failure, Unavailable, install, pretty, read, run, stage_dir, write


def mirrors():
    """The (main, security) archive addresses that this machine's apt uses."""
    said = subprocess.run(["apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI) $(RELEASE)"],
                          capture_output=True, text=True, check=False).stdout
    main_ = re.findall(r"^(\S+/debian)/? (?!\S*security)", said, re.M)
    security = re.findall(r"^(\S+?)/? \S*security", said, re.M)
    if not main_:
        raise Failure("apt's sources name no Debian mirror to fetch from: give LINUX_SRC=DIR|TARBALL")
    return main_[0], security[0] if security else f"{main_[0]}-security"


def ask_archive(cmd, log, what, otherwise, **kwargs):
    """Run CMD, which fetches WHAT; what the archive does not have is Unavailable."""
    try:
        run(cmd, log, f"{what} could not be fetched: check the network, or {otherwise}", **kwargs)
    except Failure as failure:
        if re.search(r"\b(404|410) +Not|no longer has a Release|does not have a Release|Unable to (locate|find)",
                     read(failure.log)):
            raise Unavailable(f"the archive does not have {what}: {otherwise}") from failure
        raise


def fetch(package, suites, have, log, otherwise, arch="", source=False):
    """Fetch PACKAGE from SUITES into the directory HAVE with apt, its state kept private; returns the .deb or .dsc."""
    kind = "*.dsc" if source else "*.deb"
    files = sorted(have.glob(kind), key=lambda p: p.stat().st_mtime)
    if files:
        return files[-1]
    state = have.with_name(f"apt-{have.name}")
    for sub in ("lists/partial", "cache/archives/partial"):
        (state / sub).mkdir(parents=True, exist_ok=True)
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    archive, security = mirrors()
    write(state / "sources.list", "".join(
        f"{'deb-src' if source else 'deb'} [signed-by={keyring}] {security if 'security' in suite else archive} {suite} main\n"
        for suite in suites.split()))
    apt = ["apt-get", "-q", f"-oDir::Etc::SourceList={state}/sources.list", "-oDir::Etc::SourceParts=-",
           f"-oDir::State::Lists={state}/lists", f"-oDir::Cache={state}/cache", "-oAcquire::Languages=none",
           "-oAPT::Sandbox::User=root", "-oAcquire::Retries=2", "-oAcquire::http::Timeout=30",
           *([f"-oAPT::Architecture={arch}", f"-oAPT::Architectures={arch}"] if arch else [])]
    ask_archive([*apt, "-oAPT::Update::Error-Mode=any", "update"], log, f"the package lists of {suites}", otherwise)
    with stage_dir(state / "new") as new:
        ask_archive([*apt, *(["source", "--download-only"] if source else ["download"]), package], log,
                    f"{package} of {suites}", otherwise, cwd=new, append=True)
        have.mkdir(parents=True, exist_ok=True)
        for path in sorted(new.iterdir(), key=lambda path: path.match(kind)):
            last = path.rename(have / path.name.replace("%3a", ":"))
    return last


def unpack_package(base, target, log):
    """Fetch the newest source package of BASE and put its source into TARGET; returns what to call it."""
    package = fetch(base["PACKAGE"], base["SUITES"], OUT / "download" / base.name, f"{base.name}/download",
                    f"give {base.project.upper()}_SRC=DIR|TARBALL", source=base["KIND"] == "qemu")
    broken = f"{pretty(package)} is broken: remove it and repeat"
    with stage_dir(target.with_name("unpacked")) as temp:
        if package.suffix == ".dsc":
            install("dsc")
            # With Debian's patches: its tarball lacks what is not free, and what then has to do without.
            run(["dpkg-source", "--no-copy", "-x", package, temp / "tree"], log, broken)
            run(["rm", "-rf", temp / "tree/debian", temp / "tree/.pc"], log, broken, append=True)
            target.rmdir()
            (temp / "tree").rename(target)
        else:
            run(["dpkg-deb", "-x", package, temp], log, broken)
            tar = next(temp.glob("usr/src/linux-source-*.tar.*"))
            run(["tar", "-C", target, "--strip-components=1", "-xf", tar], log, "unpacking the source failed", append=True)
    return " ".join(package.name.removesuffix(".dsc").split("_")[:2])


def unpack(base, source, target):
    """Put SOURCE (None: the package) into TARGET; returns what to call it."""
    log = f"{base.name}/import"
    if source is None:
        return unpack_package(base, target, log)
    given = f"{base.project.upper()}_SRC={source}"
    if source.is_file():
        run(["tar", "-C", target, "--strip-components=1", "-xf", source], log,
            f"{given} does not unpack: give a tarball or directory")
    elif (source / ".git").exists():
        run(["sh", "-c", 'git -C "$1" archive HEAD | tar -C "$2" -x', "sh", source, target], log,
            f"{given}: its git HEAD cannot be read")
    elif (source / "include/config/auto.conf").exists():
        raise Failure(f"{given} was built in place: run make mrproper there, or give a clean one")
    else:
        run(["cp", "-a", f"{source}/.", target], log, f"{given} could not be copied")
    return source.name


def version_of(base, tree):
    """("5.10", "5.10.262") of a tree of BASE's project, or None."""
    path = Path(tree) / ("VERSION" if base["KIND"] == "qemu" else "Makefile")
    head = read(path)[:2000] if path.exists() else ""
    if base["KIND"] == "qemu":
        numbers = re.findall(r"\d+", head)
    else:
        numbers = [re.search(rf"^{name} = *(\d+)$", head, re.M) for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL")]
        numbers = [found[1] for found in numbers if found]
    return (".".join(numbers[:2]), ".".join(numbers)) if len(numbers) == 3 else None
