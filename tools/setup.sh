#!/usr/bin/env bash
# Installs what a build of Locus needs and does not find: distribution packages, then libtorch.
#
#   tools/setup.sh          what the build, the tests and the demo need
#   tools/setup.sh --dev    the same, clang-format and Open MPI
#   tools/setup.sh --test-packages
#                           puts the Python packages that tests compare with into .venv, where the
#                           network gives them; without them those tests skip, by name
#   LOCUS_TORCH=SPEC        puts this PyTorch into .venv: anything that pip accepts
#                           ("torch==2.12.0", a wheel's path or address)
#
# Idempotent; done in less than a second when nothing is missing; may be killed anywhere and run again.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly kTorch="torch==2.13.0"
readonly kUnfinished="build/.apt-unfinished"
torch_spec="${LOCUS_TORCH:-$kTorch}"
readonly kTestPackages=(transformers==5.23.0 tokenizers==0.23.3 sentencepiece==0.2.3 safetensors==0.8.0
  tensorboard==2.21.0 numpy==2.4.6 protobuf==7.36.2)
dev=""
test_packages=""
case "${1:-}" in
  "") ;;
  --dev) dev=yes ;;
  --test-packages) test_packages=yes ;;
  *) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$@" >&2; exit 1; }
elapsed() { printf '%dm%02ds' $((SECONDS / 60)) $((SECONDS % 60)); }

# --- 1 distribution packages: package and a proof that it, or its equal, is there -------------------
has_header() {
  local folder
  for folder in /usr/include /usr/local/include "/usr/include/$(uname -m)-linux-gnu" \
      ${CPATH:+${CPATH//:/ }}; do
    [ -e "$folder/$1" ] && return 0
  done
  return 1
}
has_manuals() { [ ! -d /var/lib/dpkg/info ] || [ -e "/var/lib/dpkg/info/$1.list" ]; }
has_venv() { python3 -c 'import ensurepip, venv' 2>/dev/null; }

missing_packages() {
  need() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || echo "$package"
  }
  need g++ command -v g++
  need cmake command -v cmake
  need ninja-build command -v ninja
  need ccache command -v ccache
  need mold command -v mold
  need pkg-config command -v pkg-config
  need python3 command -v python3
  need python3-venv has_venv
  need libsentencepiece-dev has_header sentencepiece_trainer.h
  need libspdlog-dev has_header spdlog/spdlog.h
  need libfmt-dev has_header fmt/core.h
  need libcli11-dev has_header CLI/CLI.hpp
  need libtomlplusplus-dev has_header toml++/toml.h
  need nlohmann-json3-dev has_header nlohmann/json.hpp
  need libzstd-dev has_header zstd.h
  need zlib1g-dev has_header zlib.h
  need libxxhash-dev has_header xxhash.h
  need libpcre2-dev has_header pcre2.h
  need libutf8proc-dev has_header utf8proc.h
  need libgtest-dev has_header gtest/gtest.h
  # Text for the demo's corpus.
  need manpages has_manuals manpages
  need manpages-dev has_manuals manpages-dev
  [ -z "$dev" ] || need clang-format-14 command -v clang-format-14
  # The transport over MPI is optional; continuous integration tests it.
  [ -z "$dev" ] || need libopenmpi-dev command -v mpicxx
  [ -z "$dev" ] || need openmpi-bin command -v mpirun
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    env DEBIAN_FRONTEND=noninteractive "$@"
  else
    sudo env DEBIAN_FRONTEND=noninteractive "$@"
  fi
}

install_packages() {
  local packages
  mapfile -t packages < <(missing_packages)
  if [ ${#packages[@]} = 0 ] && [ ! -e "$kUnfinished" ]; then
    return
  fi
  if ! command -v apt-get >/dev/null; then
    fail "these packages (Debian's names) are missing and there is no apt-get to install them:" \
      "  ${packages[*]}" "Install your distribution's equivalents, then run this again."
  fi
  if [ "$(id -u)" != 0 ] && ! sudo_works; then
    fail "these packages are missing, and this user is neither root nor may use sudo:" \
      "  apt-get install --no-install-recommends ${packages[*]}" \
      "Let an administrator run that line, then run this again."
  fi
  say "installs with apt-get (about a minute, at most 0.5 GB): ${packages[*]}"
  # An apt-get killed half-way leaves packages unpacked but not configured: finished first next time.
  if [ -e "$kUnfinished" ]; then
    say "an earlier set-up was interrupted: finishing what it left"
    as_root dpkg --configure -a
    as_root apt-get -y -qq -o DPkg::Lock::Timeout=600 --fix-broken install
  fi
  mkdir -p build
  touch "$kUnfinished"
  as_root apt-get -qq -o DPkg::Lock::Timeout=600 update ||
    say "apt-get update failed: trying with the package lists that are there"
  if [ ${#packages[@]} != 0 ]; then
    as_root apt-get -y -qq -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 \
      install --no-install-recommends "${packages[@]}" >/dev/null
  fi
  rm -f "$kUnfinished"
  mapfile -t packages < <(missing_packages)
  [ ${#packages[@]} = 0 ] || fail "still missing after apt-get: ${packages[*]}"
  say "packages are installed ($(elapsed))"
}

sudo_works() {
  command -v sudo >/dev/null || return 1
  # Without a terminal nobody can type a password.
  if [ -t 0 ]; then sudo -v; else sudo -n true 2>/dev/null; fi
}

# --- 2 libtorch -------------------------------------------------------------------------------------
# The one rule for what is usable is CMake's: CMAKE_PREFIX_PATH, python3's torch, .venv; 2.10 or newer.
find_libtorch() {
  cmake -DPROJECT_SOURCE_DIR="$PWD" -P cmake/FindLibtorch.cmake
}

site_packages() {
  set -- .venv/lib/python3*/site-packages
  echo "$1"
}

# pip writes RECORD last: without it an install was cut short.
drop_half_installed() {
  local site
  site=$(site_packages)
  if [ -e "$site/torch" ] && ! compgen -G "$site/torch-*.dist-info/RECORD" >/dev/null; then
    say ".venv holds half of an interrupted PyTorch install: removing that"
    rm -rf "$site/torch" "$site"/torch-*.dist-info "$site"/~orch*
  fi
}

make_venv() {
  local site
  site=$(site_packages)
  if compgen -G "$site/pip-*.dist-info/RECORD" >/dev/null &&
      .venv/bin/python3 -m pip --version >/dev/null 2>&1; then
    return
  fi
  rm -rf .venv
  python3 -m venv .venv
}

pip_install() {
  .venv/bin/python3 -m pip install --disable-pip-version-check --no-input "$@"
}

unresolved_libraries() {
  ldd "$(site_packages)/torch/lib/libtorch_cpu.so" | awk '/not found/ {printf "%s ", $1}'
}

# What the C++ half of the installed PyTorch lacks. The registry's build for x86 is made for CUDA and asks
# for gigabytes of GPU libraries; its CPU half needs two small ones of them to be loaded.
install_dependencies() {
  local site missing runtime
  site=$(site_packages)
  if ! grep -qiE '^Requires-Dist: (nvidia|cuda)-' "$site"/torch-*.dist-info/METADATA; then
    pip_install --quiet "$torch_spec"
    return
  fi
  if [ -e /proc/driver/nvidia/version ]; then
    say "an NVIDIA GPU is here: installing PyTorch's CUDA libraries too (about 2.5 GB)"
    pip_install "$torch_spec"
    return
  fi
  missing=$(unresolved_libraries)
  runtime=$(sed -nE 's/^Requires-Dist: cuda-toolkit\[[^]]*\](==[^;]*).*/cuda-toolkit[cudart,cupti]\1/p' \
    "$site"/torch-*.dist-info/METADATA)
  if [ -n "$missing" ] && [ -n "$runtime" ]; then
    say "PyTorch's CPU half also loads $missing: installing $runtime (about 15 MB)"
    # pip complains here about the dependencies that are left out on purpose.
    pip_install --quiet "$runtime" 2>build/setup-pip.log || fail "$(cat build/setup-pip.log)"
    missing=$(unresolved_libraries)
  fi
  if [ -n "$missing" ]; then
    say "PyTorch needs $missing: installing all its dependencies (about 2.5 GB)"
    pip_install "$torch_spec"
  fi
}

install_torch() {
  if [ -n "${LOCUS_TORCH:-}" ]; then
    say "LOCUS_TORCH is set: $torch_spec goes into .venv"
  fi
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$(python3 --version) is too old for $kTorch: put Python 3.10 or newer first into PATH"
  say "installs $torch_spec with pip into .venv: 0.2 to 0.6 GB to download, up to 1.5 GB on disk," \
    "one to five minutes with a fast network"
  mkdir -p build
  make_venv
  rm -f .venv/locus-torch.txt  # true again only when all of the below is done
  # The same version can be another build: what was asked for by name is installed over it.
  pip_install --no-deps ${LOCUS_TORCH:+--force-reinstall} "$torch_spec"
  install_dependencies
  local missing
  missing=$(unresolved_libraries)
  [ -z "$missing" ] || fail "libtorch cannot be loaded, it lacks: $missing"
}

# With LOCUS_TORCH the wanted build is the one in .venv that was installed from the same words.
wanted_is_installed() {
  [ -e .venv/locus-torch.txt ] && [ "$(cat .venv/locus-torch.txt)" = "$torch_spec" ] &&
    [ -e "$(site_packages)/torch/lib/libtorch_cpu.so" ] && [ -z "$(unresolved_libraries)" ]
}

setup_torch() {
  local found
  drop_half_installed
  if [ -n "${LOCUS_TORCH:-}" ]; then
    wanted_is_installed && return
  elif found=$(find_libtorch 2>&1); then
    printf '%s\n' "$found" | sed 's/^-- /setup: /'
    case "$found" in
      *"$PWD/.venv/"*) [ -n "$(unresolved_libraries)" ] || return 0 ;;
      *) return 0 ;;
    esac
  else
    printf '%s\n' "$found" | grep -o 'Passed over: .*' | sed 's/^/setup: /' || true
  fi
  install_torch
  CMAKE_PREFIX_PATH="$PWD/$(site_packages)/torch" find_libtorch 2>&1 | sed 's/^-- /setup: /'
  printf '%s\n' "$torch_spec" > .venv/locus-torch.txt
  say "libtorch is installed ($(elapsed))"
}

# --- 3 packages that tests compare with ---------------------------------------------------------------
# Their absence is no failure: the tests say what they miss.
setup_test_packages() {
  local stamp=.venv/locus-test-packages.txt
  if [ -e "$stamp" ] && [ "$(cat "$stamp")" = "${kTestPackages[*]}" ]; then
    return
  fi
  say "installs with pip into .venv what tests compare with (about 100 MB): ${kTestPackages[*]}"
  mkdir -p build
  if { [ -d .venv ] || make_venv; } && pip_install --quiet --retries 1 --timeout 15 "${kTestPackages[@]}" \
      >build/setup-test-packages.log 2>&1; then
    printf '%s\n' "${kTestPackages[*]}" > "$stamp"
    say "they are installed ($(elapsed))"
  else
    say "they could not be installed, and the tests that need them will skip; pip said:" \
      "$(tail -n 1 build/setup-test-packages.log 2>/dev/null)"
  fi
}

if [ -n "$test_packages" ]; then
  setup_test_packages
  exit 0
fi
install_packages
setup_torch
