# The CUDA backend: libkvq-cuda.so, made by nvcc (KVQ_CUDA=ON), and the same sources for the host with the SIMT shim, for the tests.
file(GLOB KVQ_CUDA_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.cu)
file(GLOB KVQ_CUDA_HEADERS CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/*.h ${CMAKE_SOURCE_DIR}/kernels/cuda/*.h ${CMAKE_SOURCE_DIR}/kernels/cuda/*.cuh)
# What the plugin needs of the kernels' C: errors, halves, the Hadamard matrices, work items.
add_library(kvq_cuda_common OBJECT EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/kernels/status.c ${CMAKE_SOURCE_DIR}/kernels/formats.c
            ${CMAKE_SOURCE_DIR}/kernels/hadamard.c ${CMAKE_SOURCE_DIR}/kernels/runs.c)
set_target_properties(kvq_cuda_common PROPERTIES POSITION_INDEPENDENT_CODE ON C_VISIBILITY_PRESET hidden)
target_link_libraries(kvq_cuda_common PRIVATE kvq_flags)

if(KVQ_CUDA)
  set(KVQ_CUDA_ROOT /usr/local/cuda CACHE PATH "The CUDA toolkit")
  set(KVQ_NVCC ${KVQ_CUDA_ROOT}/bin/nvcc)
  if(NOT EXISTS ${KVQ_NVCC})
    message(FATAL_ERROR "KVQ_CUDA is on, but there is no ${KVQ_NVCC}: install cuda-nvcc and cuda-cudart-dev (CUDA 12.4 to 13), or set KVQ_CUDA_ROOT, perhaps to what scripts/setup-cuda fetches")
  endif()
  # What each toolkit knows: Blackwell came with 12.8, Thor's 11.0 with 13 (12 called it 10.1).
  execute_process(COMMAND ${KVQ_NVCC} --version OUTPUT_VARIABLE KVQ_NVCC_SAYS COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" KVQ_NVCC_RELEASE "${KVQ_NVCC_SAYS}")
  set(KVQ_NVCC_VERSION ${CMAKE_MATCH_1})
  set(KVQ_CUDA_ALL 75 80 86 87 89 90)
  if(KVQ_NVCC_VERSION VERSION_GREATER_EQUAL 13)
    list(APPEND KVQ_CUDA_ALL 100 110 120)
  elseif(KVQ_NVCC_VERSION VERSION_GREATER_EQUAL 12.8)
    list(APPEND KVQ_CUDA_ALL 100 120)
  endif()
  set(KVQ_CUDA_ARCHITECTURES "${KVQ_CUDA_ALL}" CACHE STRING "Compute capabilities to compile for; the last one also as PTX")
  set(KVQ_GENCODE)
  foreach(architecture ${KVQ_CUDA_ARCHITECTURES})
    list(APPEND KVQ_GENCODE -gencode arch=compute_${architecture},code=sm_${architecture})
    set(KVQ_LAST_ARCHITECTURE ${architecture})
  endforeach()
  list(APPEND KVQ_GENCODE -gencode arch=compute_${KVQ_LAST_ARCHITECTURE},code=compute_${KVQ_LAST_ARCHITECTURE})
  # For another machine nvcc takes that one's compiler, headers and runtime. For arm64 the runtime is a Jetson's (aarch64-linux) where
  # the toolkit has it, else that of servers, which with CUDA 12 is not said to run on a Jetson; 13 has one for both.
  set(KVQ_CUDA_LIBRARIES ${KVQ_CUDA_ROOT}/lib64)
  set(KVQ_NVCC_TARGET)
  if(CMAKE_CROSSCOMPILING)
    set(target sbsa-linux)
    if(EXISTS ${KVQ_CUDA_ROOT}/targets/aarch64-linux/lib/libcudart_static.a)
      set(target aarch64-linux)
    endif()
    set(KVQ_CUDA_LIBRARIES ${KVQ_CUDA_ROOT}/targets/${target}/lib)
    set(KVQ_NVCC_TARGET -ccbin ${CMAKE_SYSTEM_PROCESSOR}-linux-gnu-g++ -target-dir ${target})
    message(STATUS "The CUDA backend is compiled for ${target}")
  endif()
  set(KVQ_NVCC_COMMAND ${KVQ_NVCC} -std=c++20 -O3 -fmad=false -Werror all-warnings ${KVQ_NVCC_TARGET})
  file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/cuda)
  set(KVQ_CUDA_OBJECTS)
  set(KVQ_CUDA_PTX)
  foreach(source ${KVQ_CUDA_SOURCES})
    get_filename_component(name ${source} NAME_WE)
    set(object ${CMAKE_BINARY_DIR}/cuda/${name}.o)
    set(ptx ${CMAKE_BINARY_DIR}/cuda/${name}.ptx)
    add_custom_command(OUTPUT ${object}
      COMMAND ${KVQ_NVCC_COMMAND} ${KVQ_GENCODE} -Xcompiler -fPIC,-fvisibility=hidden,-ffp-contract=off,-Wall -c ${source} -o ${object}
      DEPENDS ${source} ${KVQ_CUDA_HEADERS} COMMENT "nvcc ${name}.cu" VERBATIM)
    add_custom_command(OUTPUT ${ptx}
      COMMAND ${KVQ_NVCC_COMMAND} -arch=compute_${KVQ_LAST_ARCHITECTURE} -ptx ${source} -o ${ptx}
      DEPENDS ${source} ${KVQ_CUDA_HEADERS} COMMENT "nvcc ${name}.cu, PTX" VERBATIM)
    list(APPEND KVQ_CUDA_OBJECTS ${object})
    list(APPEND KVQ_CUDA_PTX ${ptx})
  endforeach()
  add_custom_target(kvq_cuda_ptx DEPENDS ${KVQ_CUDA_PTX}) # for scripts/test, which looks for local memory in it
  # libcuda is opened by the static runtime when it is needed: the plugin loads on machines without a driver, and says so.
  add_library(kvq_cuda MODULE ${KVQ_CUDA_OBJECTS} $<TARGET_OBJECTS:kvq_cuda_common>)
  set_target_properties(kvq_cuda PROPERTIES PREFIX lib OUTPUT_NAME kvq-cuda LINKER_LANGUAGE C)
  target_link_options(kvq_cuda PRIVATE -Wl,--exclude-libs,ALL -Wl,-z,defs)
  target_link_libraries(kvq_cuda PRIVATE ${KVQ_CUDA_LIBRARIES}/libcudart_static.a stdc++ Threads::Threads m rt ${CMAKE_DL_LIBS})
  install(TARGETS kvq_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/kvqd/backends)
endif()

# The shim: x86-64 only (it switches fibers by hand), and not under the thread sanitizer, which would want to know of them.
if(KVQ_BUILD_TESTS AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" AND NOT CMAKE_CROSSCOMPILING AND CMAKE_C_COMPILER_ID STREQUAL GNU
   AND NOT KVQ_SANITIZE MATCHES thread)
  include(CheckLanguage)
  check_language(CXX)
  if(CMAKE_CXX_COMPILER) # scripts/test installs one; scripts/demo does without
    include(${CMAKE_SOURCE_DIR}/tests/simt/simt.cmake)
  endif()
endif()
