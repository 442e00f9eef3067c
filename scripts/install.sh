#!/bin/sh
# Installs dhox from the parts beside this script, without a network: sh install.sh FOLDER
# FOLDER: a virtual environment, made where there is none. PYTHON names the Python to make it with.
# The settings of the bundle stand here.
set -eu

stop() {
    printf 'install.sh: %s\n' "$1" >&2
    exit 1
}

[ $# = 1 ] || stop "say where to: sh install.sh FOLDER (a virtual environment, made where there is none)."
case $1 in /*) folder=$1 ;; *) folder=$PWD/$1 ;; esac
here=$(cd -- "$(dirname -- "$0")" && pwd)

if [ -x "$folder/bin/python" ]; then
    python=$folder/bin/python
else
    python=${PYTHON:-python$python_version}
    [ -n "${PYTHON:-}" ] || command -v "$python" >/dev/null || python=python3
    command -v "$python" >/dev/null || stop "there is no $python here. Install Python $python_version, or name it: PYTHON=PATH sh install.sh FOLDER."
fi
wrong=$("$python" -c '
import platform, sys
wanted, machine, glibc = sys.argv[1:]
found, own = "%d.%d" % sys.version_info[:2], platform.libc_ver()[1]
numbers = lambda text: [int(number) for number in text.split(".")[:2]]
if found != wanted:
    print("it needs Python %s, and %s is %s. Name another one (PYTHON=PATH), or make a bundle with PYTHON_VERSION=%s." % (wanted, sys.executable, found, found))
elif platform.machine() != machine:
    print("it is for %s, and this machine is %s." % (machine, platform.machine()))
elif not own or numbers(own) < numbers(glibc):
    print("it needs glibc %s, and this machine has %s." % (glibc, own or "none"))
' "$python_version" "$machine" "$glibc") || stop "$python does not run."
[ -z "$wrong" ] || stop "this bundle ($kind) does not fit: $wrong"

count=0
while read -r sum name; do
    [ -f "$here/$name" ] || stop "$name is missing in $here. Copy it again."
    found=$(sha256sum <"$here/$name")
    [ "${found%% *}" = "$sum" ] || stop "$name is damaged (its SHA-256 is not that of SHA256SUMS). Copy it again."
    count=$((count + 1))
done <"$here/SHA256SUMS"
[ "$count" = "$parts" ] || stop "SHA256SUMS names $count of $parts parts. Copy it again."

work=$(mktemp -d "${TMPDIR:-/tmp}/dhox.XXXXXX")
trap 'rm -rf -- "$work"' EXIT
trap 'exit 130' HUP INT TERM
(cd -- "$here" && sed 's/^[0-9a-f]*  //' SHA256SUMS | xargs cat) | tar -x -f - -C "$work" ||
    stop "the packages could not be unpacked into $work. If it is full: TMPDIR=FOLDER sh install.sh FOLDER."

if [ ! -x "$folder/bin/python" ]; then
    # Without ensurepip, which Debian and Ubuntu keep in a package of its own: pip comes with the bundle.
    # shellcheck disable=SC2086
    "$python" -m venv --without-pip $sees_system -- "$folder" ||
        stop "$python could not make an environment in $folder. If it has no module venv, install it (Debian, Ubuntu: python$python_version-venv)."
fi
pip_wheel=$(echo "$work"/pip-*.whl)
pip() {
    "$folder/bin/python" "$pip_wheel/pip" --isolated install --no-index --find-links "$work" \
        --no-cache-dir --disable-pip-version-check --quiet "$@"
}
needed="pip could not install it; its reason stands above."
[ -z "$present" ] || needed="$needed This bundle leaves out what the machine should have: $present."
pip pip "dhox${extras:+[$extras]}==$version" || stop "$needed"
pip --no-deps --force-reinstall "dhox==$version" || stop "$needed" # an earlier bundle of the same version is replaced
"$folder/bin/dhox" --version
printf 'dhox %s is installed. What works on this machine: %s/bin/dhox doctor\n' "$version" "$folder"
