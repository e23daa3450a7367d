#!/bin/sh
# The runner of a kit on the instruction set of the devices: aarch64 under qemu-user. Functional: its timings say nothing.
#
#   experiments/aarch64/run.sh KIT.zip FOLDER
#
# unpacks KIT.zip into FOLDER and runs it there. Prepares an arm64 Python with NumPy and ONNX Runtime first, once, in
# $NAS_AARCH64 (default ~/.cache/nas-aarch64, about 600 MB). Needs Debian's debootstrap and qemu-user-static, root for
# debootstrap, and the network for the preparation; neither binfmt nor chroot. Exit code 75: it cannot be prepared here.
set -eu

SUITE=bookworm      # has Python 3.11
ONNXRUNTIME=1.27.0  # 1.31.1 crashes under qemu
WHEELS="onnxruntime==$ONNXRUNTIME numpy flatbuffers packaging protobuf"
home=${NAS_AARCH64:-$HOME/.cache/nas-aarch64}

unable() {
    echo "aarch64: $1" >&2
    exit 75
}

prepare() {
    for tool in debootstrap qemu-aarch64-static dpkg-deb; do
        PATH=$PATH:/usr/sbin command -v $tool >/dev/null || unable "$tool is not here; apt-get install debootstrap qemu-user-static"
    done
    test "$(id -u)" = 0 || unable "debootstrap needs root"
    rm -rf "$home" && mkdir -p "$home"
    PATH=$PATH:/usr/sbin debootstrap --foreign --arch=arm64 --variant=minbase --include=python3,libstdc++6,libgomp1 \
        $SUITE "$home/root" >"$home/debootstrap.log" 2>&1 || unable "debootstrap: $(tail -1 "$home/debootstrap.log")"
    for package in "$home"/root/var/cache/apt/archives/*.deb; do  # the second stage would run arm64 code as root
        dpkg-deb --extract "$package" "$home/root"
    done
    # shellcheck disable=SC2086
    python3 -m pip install --quiet --no-deps --only-binary=:all: --python-version 3.11 --implementation cp \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
        --target "$home/root/opt/packages" $WHEELS >"$home/pip.log" 2>&1 || unable "pip: $(tail -1 "$home/pip.log")"
    # Under its own name, so that the sittings, which are started as sys.executable, run under qemu too.
    cat >"$home/python3" <<'PYTHON'
#!/bin/sh
home=$(cd "$(dirname "$0")" && pwd)
export PYTHONHOME=/usr PYTHONPATH=/opt/packages
exec qemu-aarch64-static -0 "$home/python3" -L "$home/root" "$home/root/usr/bin/python3.11" "$@"
PYTHON
    chmod +x "$home/python3"
    touch "$home/ready"
}

test -e "$home/ready" || prepare
"$home/python3" -c 'import platform, numpy, onnxruntime; print(platform.machine(), "numpy", numpy.__version__, "onnxruntime", onnxruntime.__version__)'
test $# = 2 || exit 0
python3 -m zipfile -e "$1" "$2"
exec "$home/python3" "$2/run.py"
