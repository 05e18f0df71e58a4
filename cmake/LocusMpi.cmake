# The transport over MPI: a module that the program loads when it is asked for, so that neither building nor
# starting Locus needs MPI. Include after locus_module(comm ...).
#
# LOCUS_MPI: AUTO builds it where MPI is found, ON wants it, OFF does without.

set(LOCUS_MPI AUTO CACHE STRING "Build the transport over MPI: AUTO (where MPI is found), ON or OFF")
set_property(CACHE LOCUS_MPI PROPERTY STRINGS AUTO ON OFF)
if(LOCUS_MPI STREQUAL "AUTO")
  find_package(MPI QUIET COMPONENTS CXX)
elseif(LOCUS_MPI)
  find_package(MPI REQUIRED COMPONENTS CXX)
else()
  set(MPI_CXX_FOUND FALSE)
endif()

# The project's language is C++, and so is the component; the C++ bindings, which MPI gave up long ago, are
# left out. What a C++ wrapper compiler links beyond the C library, --as-needed drops.
if(MPI_CXX_FOUND)
  message(STATUS "MPI: ${MPI_CXX_LIBRARIES}")
  set_target_properties(MPI::MPI_CXX PROPERTIES IMPORTED_GLOBAL TRUE)  # the tests use it, too
  add_library(locus_mpi MODULE
    ${PROJECT_SOURCE_DIR}/locus/comm/mpi/engine.cpp
    ${PROJECT_SOURCE_DIR}/locus/comm/mpi/group.cpp
    ${PROJECT_SOURCE_DIR}/locus/comm/mpi/module.cpp)
  # Only the factory is visible: locus-mpi.so has a copy of locus::base of its own.
  set_target_properties(locus_mpi PROPERTIES PREFIX "" OUTPUT_NAME locus-mpi
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_RUNTIME_OUTPUT_DIRECTORY}
    CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
    INSTALL_RPATH ${Libtorch_ROOT}/lib)
  target_compile_definitions(locus_mpi PRIVATE OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)
  target_link_options(locus_mpi PRIVATE -Wl,--exclude-libs,ALL -Wl,--as-needed)
  target_link_libraries(locus_mpi PRIVATE
    locus_options locus_warnings locus::base locus::libtorch MPI::MPI_CXX)
  add_dependencies(locus_comm locus_mpi)

  include(GNUInstallDirs)
  install(TARGETS locus_mpi LIBRARY DESTINATION ${CMAKE_INSTALL_LIBEXECDIR}/locus)
else()
  message(STATUS "MPI: left out")
endif()
