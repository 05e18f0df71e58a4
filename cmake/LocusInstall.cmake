# `cmake --install`: the program, the headers, the modules and a package, so that another project can say
# find_package(locus) and link locus::locus (everything) or single modules (locus::moe).
# libtorch is not copied: the installed program and package use the one that Locus was built with.

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(LOCUS_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/locus)

get_property(_modules GLOBAL PROPERTY LOCUS_MODULES)
add_library(locus_all INTERFACE)
add_library(locus::locus ALIAS locus_all)
target_link_libraries(locus_all INTERFACE ${_modules})
set_target_properties(locus_all PROPERTIES EXPORT_NAME locus)
set_target_properties(locus_options PROPERTIES EXPORT_NAME options)

install(TARGETS locus_options locus_all ${_modules} EXPORT locus
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT locus NAMESPACE locus:: FILE locus-targets.cmake DESTINATION ${LOCUS_PACKAGE_DIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/locus DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  FILES_MATCHING PATTERN "*.h")
install(DIRECTORY ${PROJECT_SOURCE_DIR}/configs DESTINATION ${CMAKE_INSTALL_DATADIR}/locus)
if(TARGET locus_cli)
  set_target_properties(locus_compute PROPERTIES INSTALL_RPATH ${Libtorch_ROOT}/lib)
  install(TARGETS locus_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(TARGETS locus_compute RUNTIME DESTINATION ${CMAKE_INSTALL_LIBEXECDIR}/locus)
endif()

configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/locus-config.cmake.in
  ${PROJECT_BINARY_DIR}/locus-config.cmake INSTALL_DESTINATION ${LOCUS_PACKAGE_DIR})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/locus-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/locus-config.cmake ${PROJECT_BINARY_DIR}/locus-config-version.cmake
  ${PROJECT_SOURCE_DIR}/cmake/FindLibtorch.cmake ${PROJECT_SOURCE_DIR}/cmake/LocusDependencies.cmake
  DESTINATION ${LOCUS_PACKAGE_DIR})

if(LOCUS_TESTS)
  add_test(NAME find_package COMMAND ${CMAKE_COMMAND} -DBUILD=${PROJECT_BINARY_DIR}
    -DEXAMPLE=${PROJECT_SOURCE_DIR}/examples/find_package -DCOMPILER=${CMAKE_CXX_COMPILER}
    -P ${PROJECT_SOURCE_DIR}/examples/find_package/test.cmake)
  set_tests_properties(find_package PROPERTIES LABELS slow TIMEOUT 600
    PASS_REGULAR_EXPRESSION "16 of 16 tokens went to an expert")
endif()
