# Finds libtorch 2.10 or newer and defines locus::libtorch.
#
# First hit wins: Torch_DIR or CMAKE_PREFIX_PATH, python3's torch, .venv in the source tree.
# `cmake -DPROJECT_SOURCE_DIR=. -P FindLibtorch.cmake` only says what it finds: tools/setup.sh asks so.
# We link the libraries directly instead of using TorchConfig.cmake: that one demands a whole CUDA
# toolkit wherever the wheel was built with CUDA, even where only its CPU half is used.

set(LOCUS_TORCH_MINIMUM 2.10)

# An installed Locus prefers the libtorch that it was built with: see locus-config.cmake.in.
set(_candidates ${LOCUS_BUILT_WITH_LIBTORCH})
if(Torch_DIR)
  get_filename_component(_root "${Torch_DIR}/../../.." ABSOLUTE)
  list(APPEND _candidates ${_root})
endif()
string(REPLACE ":" ";" _environment_prefixes "$ENV{CMAKE_PREFIX_PATH}")
foreach(_prefix ${CMAKE_PREFIX_PATH} ${_environment_prefixes})
  list(APPEND _candidates ${_prefix} ${_prefix}/torch ${_prefix}/../..)
endforeach()
# find_spec() does not import torch: importing takes seconds.
execute_process(
  COMMAND python3 -c "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
  OUTPUT_VARIABLE _root OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
file(GLOB _local ${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch)
list(APPEND _candidates ${_root} ${_local})

set(_seen)
foreach(_root ${_candidates})
  foreach(_header torch/headeronly/version.h torch/csrc/api/include/torch/version.h)
    if(EXISTS ${_root}/include/${_header} AND EXISTS ${_root}/lib/libtorch_cpu.so AND NOT Libtorch_ROOT)
      file(STRINGS ${_root}/include/${_header} _lines REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
      string(REGEX REPLACE "[^0-9]+([0-9]+)[^0-9]+([0-9]+)[^0-9]+([0-9]+).*" "\\1.\\2.\\3" _version "${_lines}")
      if(_version VERSION_GREATER_EQUAL LOCUS_TORCH_MINIMUM)
        get_filename_component(Libtorch_ROOT ${_root} ABSOLUTE)
        set(Libtorch_VERSION ${_version})
      else()
        list(APPEND _seen "${_root} (${_version})")
      endif()
    endif()
  endforeach()
endforeach()

if(_seen)
  list(REMOVE_DUPLICATES _seen)
  list(JOIN _seen ", " _seen)
  message(STATUS "Passed over: older than ${LOCUS_TORCH_MINIMUM}: ${_seen}")
endif()
if(NOT Libtorch_ROOT)
  message(FATAL_ERROR "No libtorch ${LOCUS_TORCH_MINIMUM} or newer in CMAKE_PREFIX_PATH, python3's torch "
    "and .venv. `make setup` installs it into .venv.")
endif()
message(STATUS "libtorch ${Libtorch_VERSION}: ${Libtorch_ROOT}")
if(CMAKE_SCRIPT_MODE_FILE)
  return()
endif()

add_library(locus::libtorch INTERFACE IMPORTED GLOBAL)
set_target_properties(locus::libtorch PROPERTIES
  INTERFACE_INCLUDE_DIRECTORIES "${Libtorch_ROOT}/include;${Libtorch_ROOT}/include/torch/csrc/api/include"
  INTERFACE_LINK_LIBRARIES "${Libtorch_ROOT}/lib/libtorch_cpu.so;${Libtorch_ROOT}/lib/libc10.so"
  INTERFACE_COMPILE_DEFINITIONS "_GLIBCXX_USE_CXX11_ABI=1")
# at::parallel_for is a template in headers: without OpenMP it is compiled to a plain loop. The
# runtime is libtorch's own file, whatever its name: a second one would bring a second pool of threads.
file(GLOB _openmp ${Libtorch_ROOT}/lib/libgomp*.so*)
if(_openmp)
  list(GET _openmp 0 _openmp)
else()
  find_library(_openmp NAMES libgomp.so.1 REQUIRED)
endif()
set_property(TARGET locus::libtorch APPEND PROPERTY INTERFACE_COMPILE_OPTIONS -fopenmp)
set_property(TARGET locus::libtorch APPEND PROPERTY INTERFACE_LINK_LIBRARIES ${_openmp})
if(LOCUS_CUDA)
  # Nothing refers to libtorch_cuda by symbol: it registers kernels when it is loaded.
  set_property(TARGET locus::libtorch APPEND PROPERTY INTERFACE_LINK_LIBRARIES
    "-Wl,--no-as-needed,${Libtorch_ROOT}/lib/libtorch_cuda.so,${Libtorch_ROOT}/lib/libc10_cuda.so,--as-needed")
endif()
