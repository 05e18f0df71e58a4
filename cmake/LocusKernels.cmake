# ops/cpu: one source file for each instruction set, compiled for it and chosen when the program runs.
# They see neither libtorch nor the precompiled header: what is inlined here must stay here.
set(_kernel_flags -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math -fopenmp-simd)
set(_kernel_sources ops/cpu/kernels.cpp ops/cpu/baseline.cpp)
set_source_files_properties(ops/cpu/baseline.cpp PROPERTIES COMPILE_OPTIONS "${_kernel_flags}")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(_avx512 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mprefer-vector-width=512)
  list(APPEND _kernel_sources ops/cpu/kernels_x86.cpp ops/cpu/avx2.cpp ops/cpu/avx512.cpp
    ops/cpu/avx512_bf16.cpp)
  set_source_files_properties(ops/cpu/avx2.cpp PROPERTIES COMPILE_OPTIONS
    "${_kernel_flags};-mavx2;-mfma")
  set_source_files_properties(ops/cpu/avx512.cpp PROPERTIES COMPILE_OPTIONS
    "${_kernel_flags};${_avx512}")
  # GCC 12 warns wrongly inside its own intrinsics (its bug 105593).
  set_source_files_properties(ops/cpu/avx512_bf16.cpp PROPERTIES COMPILE_OPTIONS
    "${_kernel_flags};${_avx512};-mavx512bf16;-Wno-maybe-uninitialized;-Wno-uninitialized")
else()
  list(APPEND _kernel_sources ops/cpu/kernels_other.cpp)
endif()
locus_module(kernels SOURCES ${_kernel_sources} DEPS locus::base)
