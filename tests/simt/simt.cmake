# libkvq-cuda-shim.so: the CUDA backend's sources compiled for the host with the SIMT shim (simt.h), and what is tested with it.
enable_language(CXX)
add_library(kvq_simt_flags INTERFACE)
target_compile_options(kvq_simt_flags INTERFACE -std=c++20 -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno -Wall -Wextra
                       -Wno-unknown-pragmas $<$<BOOL:${KVQ_WERROR}>:-Werror>)
target_compile_definitions(kvq_simt_flags INTERFACE KVQ_SIMT)
target_include_directories(kvq_simt_flags INTERFACE ${CMAKE_SOURCE_DIR}/tests/simt)
if(KVQ_SANITIZE)
  target_compile_options(kvq_simt_flags INTERFACE -fsanitize=${KVQ_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all -O1 -g1
                         ${KVQ_SANITIZED_KERNELS})
  target_link_options(kvq_simt_flags INTERFACE -fsanitize=${KVQ_SANITIZE})
else()
  target_compile_options(kvq_simt_flags INTERFACE -O2)
endif()
set_source_files_properties(${KVQ_CUDA_SOURCES} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++")
set_source_files_properties(${CMAKE_SOURCE_DIR}/tests/simt/simt.cc PROPERTIES COMPILE_OPTIONS "-O2")
add_library(kvq_cuda_shim MODULE ${KVQ_CUDA_SOURCES} ${CMAKE_SOURCE_DIR}/tests/simt/simt.cc $<TARGET_OBJECTS:kvq_cuda_common>)
set_target_properties(kvq_cuda_shim PROPERTIES PREFIX lib OUTPUT_NAME kvq-cuda-shim)
target_link_libraries(kvq_cuda_shim PRIVATE kvq_simt_flags)
# What it opens as cuBLAS, where a test says so.
add_library(fake_cublas MODULE ${CMAKE_SOURCE_DIR}/tests/simt/fake_cublas.c $<TARGET_OBJECTS:kvq_cuda_common>)
target_include_directories(fake_cublas PRIVATE ${CMAKE_SOURCE_DIR} ${CMAKE_SOURCE_DIR}/tests/simt)
target_link_libraries(fake_cublas PRIVATE kvq_flags)
# The shim itself: broken kernels, each of which it must find, and what ptx.cuh says of the instructions.
add_executable(test_simt ${CMAKE_SOURCE_DIR}/tests/simt/test_simt.cc ${CMAKE_SOURCE_DIR}/tests/simt/simt.cc $<TARGET_OBJECTS:kvq_cuda_common>)
target_link_libraries(test_simt PRIVATE kvq_simt_flags)
add_test(NAME test_simt COMMAND test_simt)
# The operators against ref, as on a device, with launches that may come early: so that each kernel is seen to wait. All cases take five minutes here (--long): one in so many, another choice per seed.
set(KVQ_SHIM_SAMPLE 30)
if(KVQ_SANITIZE)
  set(KVQ_SHIM_SAMPLE 60)
endif()
add_test(NAME check_kernels_cuda COMMAND check_kernels --plugin=$<TARGET_FILE:kvq_cuda_shim> --host-memory --sample=${KVQ_SHIM_SAMPLE})
set_tests_properties(check_kernels_cuda PROPERTIES TIMEOUT 900 COST 90)
set_property(TEST check_kernels_cuda PROPERTY ENVIRONMENT "KVQ_CUDA_CUBLAS=$<TARGET_FILE:fake_cublas>;KVQ_CUDA_EARLY=1;ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=0")
# Attention where a block has little shared memory, so that few warps, or one, are in it.
if(NOT KVQ_SANITIZE)
  add_test(NAME check_kernels_cuda_little COMMAND check_kernels --plugin=$<TARGET_FILE:kvq_cuda_shim> --host-memory --test=kv_*_d256* --sample=2)
  set_tests_properties(check_kernels_cuda_little PROPERTIES TIMEOUT 900 COST 30 ENVIRONMENT "KVQ_SIMT_FAULT=little_shared")
endif()
# The whole engine on it.
add_executable(test_engine_on_shim ${CMAKE_SOURCE_DIR}/tests/simt/test_engine_on_shim.c)
target_link_libraries(test_engine_on_shim PRIVATE kvq_flags kvq_engine_world)
add_dependencies(test_engine_on_shim kvq_cuda_shim fake_cublas)
target_include_directories(test_engine_on_shim PRIVATE ${CMAKE_SOURCE_DIR}/tests/simt)
target_compile_definitions(test_engine_on_shim PRIVATE FAKE_CUBLAS="$<TARGET_FILE:fake_cublas>")
add_test(NAME test_engine_on_shim COMMAND test_engine_on_shim --sample)
# And the daemon: what it tells of a GPU, and what it does without one.
if(TARGET kvqd AND MOSQUITTO)
  add_test(NAME daemon_on_shim COMMAND ${PYTHON3} ${CMAKE_SOURCE_DIR}/tests/simt/daemon_on_shim.py $<TARGET_FILE:kvq_cuda_shim>
           $<TARGET_FILE_DIR:fake_nvml>)
  set_tests_properties(daemon_on_shim PROPERTIES TIMEOUT 600 COST 60 ENVIRONMENT
    "KVQD=$<TARGET_FILE:kvqd>;KVQD_TEST_LIMIT_S=120;ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=0")
endif()
# And the script for a machine with a GPU, whose figures are of nothing here.
if(TARGET kvqd AND NOT KVQ_SANITIZE)
  add_test(NAME gpu_run_on_shim COMMAND ${PYTHON3} ${CMAKE_SOURCE_DIR}/tests/gpu/run --shim --minutes 4.5
           --llama-bench ${CMAKE_SOURCE_DIR}/tests/simt/fake_llama_bench ${CMAKE_BINARY_DIR} ${CMAKE_BINARY_DIR}/gpu_run)
  set_tests_properties(gpu_run_on_shim PROPERTIES TIMEOUT 300 COST 60)
endif()
add_library(kvq_old_plugin MODULE ${CMAKE_SOURCE_DIR}/tests/simt/old_plugin.c)
target_include_directories(kvq_old_plugin PRIVATE ${CMAKE_SOURCE_DIR})
target_link_libraries(kvq_old_plugin PRIVATE kvq_flags)
add_dependencies(test_engine_on_shim kvq_old_plugin)
target_compile_definitions(test_engine_on_shim PRIVATE OLD_PLUGIN="$<TARGET_FILE:kvq_old_plugin>")
# The fake stack makes every switch of fibers dear (and see check_kernels.cmake).
set_tests_properties(test_engine_on_shim PROPERTIES TIMEOUT 900 COST 95 ENVIRONMENT
  "KVQ_CUDA_PLUGIN=$<TARGET_FILE:kvq_cuda_shim>;ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=0")
# Its steps are launched ahead, too; test_overlap --cuda, which compares them with steps that are not, is for --long.
