# kvqctl: everything but kvqctl.c (main and the command table) is the library kvqctl_core, so that unit tests can link it.
# Included by CMakeLists.txt.
file(GLOB KVQ_TOOL_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tools/*.c)
list(REMOVE_ITEM KVQ_TOOL_SOURCES ${CMAKE_SOURCE_DIR}/tools/kvqctl.c)
add_library(kvqctl_core STATIC ${KVQ_TOOL_SOURCES})
target_compile_definitions(kvqctl_core PRIVATE _GNU_SOURCE)
kvq_find_library(paho-mqtt3cs ssl crypto)
target_link_libraries(kvqctl_core PRIVATE kvq_flags PUBLIC kvq kvq_jansson kvq_paho-mqtt3cs)

add_executable(kvqctl ${CMAKE_SOURCE_DIR}/tools/kvqctl.c)
target_compile_definitions(kvqctl PRIVATE _GNU_SOURCE)
target_link_libraries(kvqctl PRIVATE kvq_flags kvqctl_core)
install(TARGETS kvqctl RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})

if(KVQ_BUILD_TESTS)
  enable_testing()
  pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)
  # Every tests/unit/tools/test_*.c is one cmocka program.
  file(GLOB KVQ_TOOL_TESTS CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/unit/tools/test_*.c)
  foreach(source ${KVQ_TOOL_TESTS})
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name} ${source})
    target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
    target_compile_definitions(${name} PRIVATE _GNU_SOURCE KVQ_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
    target_link_libraries(${name} PRIVATE kvq_flags kvqctl_core PkgConfig::CMOCKA)
    add_test(NAME ${name} COMMAND ${name})
  endforeach()
  # Which bars commands draw, on a tiny model, as told to functions in the place of progress.c's.
  target_link_libraries(test_bars PRIVATE kvq_engine_world)
  target_link_options(test_bars PRIVATE -Wl,--wrap=progress_begin,--wrap=progress_step,--wrap=progress_done)
  if(NOT CMAKE_CROSSCOMPILING) # scripts start kvqctl themselves, without the emulator
    # Every tests/tools/test_*.sh gets kvqctl's path and the source folder.
    file(GLOB KVQ_TOOL_SCRIPTS CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/tools/test_*.sh)
    foreach(script ${KVQ_TOOL_SCRIPTS})
      get_filename_component(name ${script} NAME_WE)
      add_test(NAME kvqctl_${name} COMMAND bash ${script} $<TARGET_FILE:kvqctl> ${CMAKE_SOURCE_DIR})
    endforeach()
    # The commands at work, on tiny models.
    add_test(NAME kvqctl_commands COMMAND python3 ${CMAKE_SOURCE_DIR}/tests/tools/test_commands.py $<TARGET_FILE:kvqctl>
             $<TARGET_FILE:make_tiny_models>)
    set_tests_properties(kvqctl_commands PROPERTIES COST 60)
  endif()
endif()
