#!/bin/sh
# Runs a program on an emulated Xeon that has AMX (BF16, FP16 and INT8 tiles) beside AVX-512 with FP16, BF16 and VNNI.
#
#   scripts/emulate/amx.sh PROGRAM [ARGUMENT...]      any Linux program of this machine; leaves with its exit code
#   scripts/emulate/amx.sh --probe                    the instructions themselves (amx_probe.rs)
#   scripts/emulate/amx.sh --kernels [FILTER...]      the tests of the kernels alone (kernels.sh)
#   scripts/emulate/amx.sh --crate [FILTER...]        the crate's unit tests, `model::kernel` unless named otherwise
#
# What is checked is arithmetic, not speed: Bochs is some hundred times slower than the machine, and has one core.
# The program sees an empty file system of its own, its shared libraries, no network and no files of the host.
# Needs Debian and root (apt-get), a C++ compiler and python3. The first run compiles Bochs, some two minutes on two
# cores; all that it fetches and makes goes into target/emulate. Environment:
#
#   AMX_SECONDS    deadline of the emulated machine (default 1800)
#   AMX_MEMORY     its memory in MiB (default 1024)
#   AMX_FEATURES   features added to the model of a Sapphire Rapids (default "amx_fp16")
set -eu

HERE=$(realpath "$(dirname "$0")")
CACHE=$(realpath -m "$HERE/../../target/emulate")
MIRROR=http://deb.debian.org/debian
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

main() {
    mkdir -p "$CACHE"
    [ $# -gt 0 ] || fail "name a program, --probe, --kernels or --crate"
    case $1 in
    --probe)
        rustc --edition 2024 -O "$HERE/amx_probe.rs" -o "$CACHE/amx_probe"
        set -- "$CACHE/amx_probe"
        ;;
    --kernels)
        shift
        program=$(compile_tests "$("$HERE/kernels.sh")")
        set -- "$program" --test-threads 1 "$@"
        ;;
    --crate)
        shift
        [ $# -gt 0 ] || set -- model::kernel
        program=$(compile_tests "$HERE/../..")
        set -- "$program" --test-threads 1 "$@"
        ;;
    esac
    [ -x "$1" ] || fail "$1 is not a program"
    prepare_tools
    prepare_bochs
    prepare_kernel
    work=$(mktemp -d /tmp/assay-amx.XXXXXX)
    trap 'rm -rf "$work"' EXIT
    make_disk "$@"
    boot
    report
}

# Prints the path of the unit tests of a crate's directory.
compile_tests() {
    cd "$1"
    cargo test --lib --no-run --message-format=json |
        sed -n '/"profile":{[^}]*"test":true/s/.*"executable":"\([^"]*\)".*/\1/p' | tail -1
}

prepare_tools() {
    for package in isolinux syslinux-common xorriso cpio busybox-static; do
        dpkg -s $package >/dev/null 2>&1 || missing="${missing-} $package"
    done
    [ -z "${missing-}" ] || apt-get install -y -qq --no-install-recommends $missing >&2
}

# Bochs is younger in Debian 13 than in the Debian below: fetched from there, without touching the machine's sources.
prepare_bochs() {
    bochs=$CACHE/bochs-3.0/bochs
    bios=$CACHE/firmware/usr/share
    [ -x "$bochs" ] && [ -d "$bios/bochs" ] && return
    echo "compiling Bochs 3.0" >&2
    make_apt_of_trixie
    cd "$CACHE"
    APT_CONFIG=apt.conf apt-get -qq update >&2
    APT_CONFIG=apt.conf apt-get -qq download bochsbios=3.0+dfsg-1 vgabios >&2
    # A mirror may lack the description of the sources; what is needed is the archive, and its sum is known.
    APT_CONFIG=apt.conf apt-get -qq source --download-only bochs=3.0+dfsg-1 2>/dev/null || true
    sha256sum --check --quiet >&2 <<SUMS
78f6c73d4a6472d5130a87ab9dc306d02c7c71ed8e25b3a8ef642e2a7acd282b  bochs_3.0+dfsg.orig.tar.xz
13f8f4bdd9bb5c07378b7e39042cb631ebdd41d00b0f1a3091caab17ca946a5b  bochsbios_3.0+dfsg-1_all.deb
SUMS
    for package in bochsbios_*.deb vgabios_*.deb; do dpkg -x "$package" firmware; done
    tar xf bochs_3.0+dfsg.orig.tar.xz
    python3 "$HERE/mend_bochs.py" bochs-3.0
    compile_bochs >bochs.log 2>&1 || fail "Bochs does not compile: $CACHE/bochs.log"
}

make_apt_of_trixie() {
    mkdir -p "$CACHE/apt/lists/partial" "$CACHE/apt/cache/archives/partial"
    printf 'deb%s [signed-by=%s] %s trixie main\n' '' $KEYRING $MIRROR -src $KEYRING $MIRROR >"$CACHE/apt/sources.list"
    cat >"$CACHE/apt.conf" <<CONFIG
Dir::Etc::sourcelist "$CACHE/apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "$CACHE/apt/lists";
Dir::Cache "$CACHE/apt/cache";
APT::Sandbox::User "root";
Acquire::Languages "none";
CONFIG
}

compile_bochs() {
    cd bochs-3.0
    ./configure --enable-cpu-level=6 --enable-x86-64 --enable-fpu --enable-avx --enable-evex --enable-amx \
        --enable-pci --enable-cdrom --enable-all-optimizations --disable-plugins --disable-docbook \
        --without-x --without-x11 --with-nogui CXXFLAGS="-O2 -fno-strict-aliasing" CFLAGS=-O2
    nice -n 10 make -j"$(nproc)" bochs
}

# Debian's smallest kernel; tiles need Linux 5.16.
prepare_kernel() {
    kernel=$(find "$CACHE/kernel/boot" -name 'vmlinuz-*' 2>/dev/null | tail -1)
    [ -z "$kernel" ] || return 0
    name=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-.*\)/\1/p' | head -1)
    [ -n "$name" ] || fail "no kernel found: run apt-get update"
    (cd "$CACHE" && apt-get -qq -o APT::Sandbox::User=root download "$name" >&2 && dpkg -x "$name"_*.deb kernel)
    kernel=$(find "$CACHE/kernel/boot" -name 'vmlinuz-*' | tail -1)
}

# A CD with the kernel and a file system of the program, its libraries and what starts it.
make_disk() {
    root=$work/root
    mkdir -p "$root/bin" "$root/proc" "$root/dev" "$root/tmp" "$work/cd"
    cp /bin/busybox "$root/bin/"
    cp "$1" "$root/program"
    # Each byte of the CD is read by an emulated BIOS.
    strip --strip-all "$root/program" 2>/dev/null || true
    for library in $(ldd "$1" 2>/dev/null | grep -o '/[^ ]*'); do
        mkdir -p "$root/$(dirname "$library")"
        cp -L "$library" "$root/$library"
    done
    shift
    for argument; do printf '%s\n' "$argument"; done >"$root/arguments"
    write_init >"$root/init"
    chmod +x "$root/init"
    (cd "$root" && find . | cpio -o -H newc --quiet >"$work/cd/initrd")
    cp "$kernel" "$work/cd/linux"
    cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$work/cd/"
    # fsrm: without ERMS, which Bochs does not offer, Linux would copy memory wrongly. no5lvl: for ACPI's calls of SMM.
    cat >"$work/cd/isolinux.cfg" <<CONFIG
DEFAULT linux
PROMPT 0
LABEL linux
  KERNEL linux
  INITRD initrd
  APPEND console=ttyS0 quiet loglevel=1 rdinit=/init nokaslr mitigations=off tsc=reliable random.trust_cpu=on panic=-1 reboot=t no5lvl clearcpuid=fsrm
CONFIG
    xorriso -as mkisofs -quiet -o "$work/boot.iso" -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 \
        -boot-info-table "$work/cd" >/dev/null 2>&1
}

write_init() {
    cat <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t devtmpfs none /dev
/bin/busybox mount -t tmpfs none /tmp
/bin/busybox stty -onlcr
IFS='
'
set -f
set -- $(/bin/busybox cat /arguments)
export RUST_BACKTRACE=0 TMPDIR=/tmp HOME=/tmp
echo '=== begin'
/program "$@" 2>&1
echo "=== end $?"
/bin/busybox sleep 1
/bin/busybox poweroff -f
INIT
}

boot() {
    cd "$work"
    cat >bochsrc <<CONFIG
megs: ${AMX_MEMORY:-1024}
cpu: model=sapphire_rapids, add_features="${AMX_FEATURES:-amx_fp16}", ips=100000000, reset_on_triple_fault=0
romimage: file=$bios/bochs/BIOS-bochs-latest, options=fastboot
vgaromimage: file=$bios/vgabios/vgabios.bin
ata0-master: type=cdrom, path=boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=serial
log: log
panic: action=fatal
error: action=ignore
info: action=ignore
display_library: nogui
clock: sync=none
CONFIG
    # Bochs takes the switch to power off for a failure.
    nice -n 10 timeout "${AMX_SECONDS:-1800}" "$bochs" -q -f bochsrc >out 2>&1 </dev/null || true
}

report() {
    sed -n '/^=== begin/,$p' serial | sed '1d;/^=== end/,$d'
    code=$(sed -n 's/^=== end \([0-9]*\).*/\1/p' serial | tail -1)
    if [ -z "$code" ]; then
        tail -20 serial log >&2
        fail "the program did not end; see above"
    fi
    exit "$code"
}

fail() {
    echo "amx.sh: $1" >&2
    exit 3
}

main "$@"
