# What `cmake --install` puts where: header, library, pkg-config file, CMake package, program, man
# page and the bundled model.
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/draftattn)

install(FILES include/draftattn.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS draftattn EXPORT draftattnTargets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT draftattnTargets NAMESPACE draftattn:: DESTINATION ${package_dir})
add_library(draftattn::draftattn ALIAS draftattn)

# Before 1.0 a new minor version may change the interface.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/draftattnConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
configure_package_config_file(cmake/draftattnConfig.cmake.in
  ${PROJECT_BINARY_DIR}/draftattnConfig.cmake INSTALL_DESTINATION ${package_dir})
install(FILES ${PROJECT_BINARY_DIR}/draftattnConfig.cmake
              ${PROJECT_BINARY_DIR}/draftattnConfigVersion.cmake DESTINATION ${package_dir})

# The prefix follows the file, so that an installed tree can be moved.
file(RELATIVE_PATH pc_to_prefix /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
set(pc_private_libs "${OpenMP_C_FLAGS} -lm")
if(DRAFTATTN_HAVE_CUDA)
  string(APPEND pc_private_libs
         " -L${CUDAToolkit_LIBRARY_DIR} -lcudart_static -lstdc++ -lpthread -ldl -lrt")
endif()
if(NOT BUILD_SHARED_LIBS) # no shared one beside it: whoever links it needs them
  set(pc_libs " ${pc_private_libs}")
endif()
configure_file(cmake/draftattn.pc.in draftattn.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/draftattn.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

if(TARGET draftattn_cli)
  install(TARGETS draftattn_cli DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(DIRECTORY samples/tiny-world/checkpoint/
          DESTINATION ${CMAKE_INSTALL_DATADIR}/draftattn/tiny-world)

  # The man page is the help text, so that the two cannot disagree.
  set(man_page ${PROJECT_BINARY_DIR}/draftattn.1)
  add_custom_command(OUTPUT ${man_page}
    COMMAND sh ${PROJECT_SOURCE_DIR}/cmake/man-page.sh $<TARGET_FILE:draftattn_cli>
            ${PROJECT_VERSION} ${man_page}
    DEPENDS draftattn_cli ${PROJECT_SOURCE_DIR}/cmake/man-page.sh
    VERBATIM)
  add_custom_target(man ALL DEPENDS ${man_page})
  install(FILES ${man_page} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
endif()
