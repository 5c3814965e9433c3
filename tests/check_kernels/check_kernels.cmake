# The operators' check; see check.h.
file(GLOB KVQ_CHECK_KERNELS CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/check_kernels/*.c)
add_executable(check_kernels ${KVQ_CHECK_KERNELS})
target_include_directories(check_kernels PRIVATE ${CMAKE_SOURCE_DIR})
# gcc 12 for arm64 dies of an internal error when it vectorizes kv_world.c; nothing here is worth vectorizing.
target_compile_options(check_kernels PRIVATE -fno-tree-vectorize)
target_link_libraries(check_kernels PRIVATE kvq_flags kvq_kernels)
if(CMAKE_CROSSCOMPILING)
  set(KVQ_CHECK_SAMPLE --sample=8)
endif()
# An emulator is some thirty times slower: it gets one case in eight.
add_test(NAME check_kernels COMMAND check_kernels ${KVQ_CHECK_SAMPLE})
set_tests_properties(check_kernels PROPERTIES TIMEOUT 900)
# gcc 12's fake stack is not aligned for vectors of 64 bytes (gcc bug 110027): a spilled register would fault there.
set_property(TEST check_kernels PROPERTY ENVIRONMENT "ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=0")
