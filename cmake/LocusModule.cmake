# locus_module(name [TORCH] SOURCES ... [DEPS ...]): the only way to make a library of the project.
# A folder of locus/ is one static library; DEPS are other folders or imported targets.
# TORCH: may include libtorch's headers, and shares one narrow precompiled header.

add_library(locus_options INTERFACE)
target_compile_features(locus_options INTERFACE cxx_std_20)
target_include_directories(locus_options INTERFACE
  $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:include>)
add_library(locus_warnings INTERFACE)
target_compile_options(locus_warnings INTERFACE -Wall -Wextra -Wconversion -Wshadow
  -Wno-sign-conversion $<$<BOOL:${LOCUS_WERROR}>:-Werror>
  # GCC 12 warns wrongly at -O3 of "text" + std::string (its bug 105651) and of a string that is
  # moved into a vector.
  $<$<BOOL:${LOCUS_WERROR}>:-Wno-restrict>
  $<$<AND:$<BOOL:${LOCUS_WERROR}>,$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>:-Wno-array-bounds>)

function(locus_module name)
  cmake_parse_arguments(arg "TORCH" "" "SOURCES;DEPS" ${ARGN})
  add_library(locus_${name} STATIC ${arg_SOURCES})
  add_library(locus::${name} ALIAS locus_${name})
  set_target_properties(locus_${name} PROPERTIES EXPORT_NAME ${name} POSITION_INDEPENDENT_CODE ON)
  target_link_libraries(locus_${name} PUBLIC locus_options ${arg_DEPS}
    PRIVATE $<BUILD_INTERFACE:locus_warnings>)
  if(arg_TORCH)
    target_link_libraries(locus_${name} PUBLIC locus::libtorch)
    locus_use_torch_pch(locus_${name})
  endif()
  set_property(GLOBAL APPEND PROPERTY LOCUS_MODULES locus_${name})
endfunction()

# The precompiled header is built once, in locus_torch_pch, and reused by every torch target.
function(locus_use_torch_pch target)
  if(NOT LOCUS_PCH)
    return()
  endif()
  if(NOT TARGET locus_torch_pch)
    file(WRITE ${CMAKE_BINARY_DIR}/torch_pch.cpp "")
    add_library(locus_torch_pch STATIC ${CMAKE_BINARY_DIR}/torch_pch.cpp)
    set_target_properties(locus_torch_pch PROPERTIES POSITION_INDEPENDENT_CODE ON)
    target_link_libraries(locus_torch_pch PRIVATE locus_options locus::libtorch locus_warnings)
    target_precompile_headers(locus_torch_pch PRIVATE ${PROJECT_SOURCE_DIR}/cmake/torch_pch.h)
  endif()
  target_precompile_headers(${target} REUSE_FROM locus_torch_pch)
endfunction()

# locus_test(folder [TORCH] [LABELS ...] DEPS ...): tests/<folder>/*_test.cpp, one binary, ctest by case.
function(locus_test folder)
  cmake_parse_arguments(arg "TORCH" "" "LABELS;DEPS" ${ARGN})
  if(NOT LOCUS_TESTS)
    return()
  endif()
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/${folder}/*_test.cpp)
  if(NOT sources)
    return()
  endif()
  add_executable(${folder}_test ${sources})
  target_link_libraries(${folder}_test PRIVATE ${arg_DEPS} GTest::gtest_main locus_warnings)
  target_compile_definitions(${folder}_test PRIVATE LOCUS_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  if(arg_TORCH)
    # GCC refuses a precompiled header made with -fPIC in code for an executable (-fPIE).
    target_compile_options(${folder}_test PRIVATE -fPIC)
    locus_use_torch_pch(${folder}_test)
  endif()
  add_test(NAME ${folder}_test COMMAND ${folder}_test)
  set_tests_properties(${folder}_test PROPERTIES LABELS "${arg_LABELS}" TIMEOUT 900
    ENVIRONMENT "OMP_NUM_THREADS=2;OMP_WAIT_POLICY=passive")
  if(arg_TORCH)
    set_tests_properties(${folder}_test PROPERTIES PROCESSORS 2)  # OpenMP's spinning wants real cores
  endif()
endfunction()
