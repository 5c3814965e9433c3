# kvqd: everything but main.c is the library kvqd_core, so that unit tests can link it. Included by CMakeLists.txt.
pkg_check_modules(INIH REQUIRED IMPORTED_TARGET inih)
pkg_check_modules(SYSTEMD REQUIRED IMPORTED_TARGET libsystemd)
pkg_check_modules(SQLITE REQUIRED IMPORTED_TARGET sqlite3)
find_library(PAHO_MQTT3AS paho-mqtt3as REQUIRED)

file(GLOB KVQ_DAEMON_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/daemon/*.c)
list(REMOVE_ITEM KVQ_DAEMON_SOURCES ${CMAKE_SOURCE_DIR}/daemon/main.c)
add_library(kvqd_core STATIC ${KVQ_DAEMON_SOURCES})
target_compile_definitions(kvqd_core PRIVATE _GNU_SOURCE)
target_link_libraries(kvqd_core PRIVATE kvq_flags PUBLIC kvq PkgConfig::JANSSON PkgConfig::INIH PkgConfig::SYSTEMD
                      PkgConfig::SQLITE ${PAHO_MQTT3AS} Threads::Threads)

if(EXISTS ${CMAKE_SOURCE_DIR}/daemon/main.c)
  add_executable(kvqd daemon/main.c)
  target_compile_definitions(kvqd PRIVATE _GNU_SOURCE)
  target_link_libraries(kvqd PRIVATE kvq_flags kvqd_core)
  install(TARGETS kvqd RUNTIME DESTINATION ${CMAKE_INSTALL_SBINDIR})
endif()

# Every tests/unit/daemon/test_*.c is one cmocka program.
if(KVQ_BUILD_TESTS)
  enable_testing()
  pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)
  file(GLOB KVQ_DAEMON_TESTS CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/unit/daemon/test_*.c)
  foreach(source ${KVQ_DAEMON_TESTS})
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name} ${source})
    target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
    target_compile_definitions(${name} PRIVATE _GNU_SOURCE KVQ_SOURCE_DIR="${CMAKE_SOURCE_DIR}" KVQ_PROGRAM="${CMAKE_BINARY_DIR}/${name}")
    target_link_libraries(${name} PRIVATE kvq_flags kvqd_core PkgConfig::CMOCKA)
    add_test(NAME ${name} COMMAND ${name})
  endforeach()
endif()
