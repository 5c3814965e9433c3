# The operators' check; see check.h.
file(GLOB KVQ_CHECK_KERNELS CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/check_kernels/*.c)
add_executable(check_kernels ${KVQ_CHECK_KERNELS})
target_include_directories(check_kernels PRIVATE ${CMAKE_SOURCE_DIR})
# gcc 12 for arm64 dies of an internal error when it vectorizes kv_world.c; nothing here is worth vectorizing.
target_compile_options(check_kernels PRIVATE -fno-tree-vectorize)
target_link_libraries(check_kernels PRIVATE kvq_flags kvq_kernels)
if(CMAKE_CROSSCOMPILING)
  # An emulator is some thirty times slower: it gets one case in twenty. On CPUs that lack an instruction set it must not be
  # found, and whatever is executed of it all the same is an illegal instruction there.
  set(KVQ_CHECK_SAMPLE --sample=20 --expect=generic,neon,dotprod,i8mm)
  add_test(NAME check_kernels_a76 COMMAND check_kernels --sample=20 --seed=2 --expect=generic,neon,dotprod)
  add_test(NAME check_kernels_a72 COMMAND check_kernels --sample=20 --seed=3 --expect=generic,neon)
  set_tests_properties(check_kernels_a76 PROPERTIES COST 95 ENVIRONMENT QEMU_CPU=cortex-a76)
  set_tests_properties(check_kernels_a72 PROPERTIES COST 95 ENVIRONMENT QEMU_CPU=cortex-a72)
endif()
if(KVQ_SANITIZE)
  set(KVQ_CHECK_SAMPLE --sample=10)
endif()
add_test(NAME check_kernels COMMAND check_kernels ${KVQ_CHECK_SAMPLE})
set_tests_properties(check_kernels PROPERTIES TIMEOUT 900 COST 100) # the longest begin first
# gcc 12's fake stack is not aligned for vectors of 64 bytes (gcc bug 110027): a spilled register would fault there.
set_property(TEST check_kernels PROPERTY ENVIRONMENT "ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=0")
# Sets that this CPU may lack, where SIMDe is (scripts/test installs it; scripts/demo does without). Sanitized SIMDe is slow, and
# finds what SIMDe does.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" AND NOT CMAKE_CROSSCOMPILING AND CMAKE_C_COMPILER_ID STREQUAL GNU AND NOT KVQ_SANITIZE)
  find_path(KVQ_SIMDE simde/x86/avx512.h)
  if(KVQ_SIMDE)
    include(${CMAKE_SOURCE_DIR}/tests/emulated/emulated.cmake)
  endif()
endif()
# One product, for programs that count instructions (tests/bench/arm64_counts).
add_executable(count_linear ${CMAKE_SOURCE_DIR}/tests/bench/count_linear.c)
target_include_directories(count_linear PRIVATE ${CMAKE_SOURCE_DIR})
target_link_libraries(count_linear PRIVATE kvq_flags kvq_kernels)
