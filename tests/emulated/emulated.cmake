# check_kernels_emulated: check_kernels for instruction sets that this CPU may lack. Their kernels are compiled once more, for plain
# x86-64, with the intrinsics of immintrin.h here, and linked in place of the library's (an archive gives only what is still missing),
# as features.c is. The sets are then found, and compared with ref and generic, as on a CPU that has them. Nothing is unrolled or
# inlined, and a panel has fewer rows: the same template in a tenth of gcc's time.
file(GLOB KVQ_LACKED CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cpu/*_avxvnni.c ${CMAKE_SOURCE_DIR}/kernels/cpu/*_avx512.c
     ${CMAKE_SOURCE_DIR}/kernels/cpu/*_amx.c)
set(KVQ_EMULATED)
foreach(source ${KVQ_LACKED}) # through another file, since the flags of the source itself go wherever it goes
  get_filename_component(name ${source} NAME)
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/emulated/${name} CONTENT "#include \"${source}\"\n")
  list(APPEND KVQ_EMULATED ${CMAKE_BINARY_DIR}/emulated/${name})
endforeach()
set_source_files_properties(${CMAKE_BINARY_DIR}/emulated/linear_amx.c PROPERTIES COMPILE_OPTIONS "-include;${CMAKE_SOURCE_DIR}/tests/emulated/tiles.h")
add_library(kvq_emulated OBJECT ${KVQ_EMULATED} ${CMAKE_SOURCE_DIR}/tests/emulated/features.c)
target_include_directories(kvq_emulated PRIVATE ${CMAKE_SOURCE_DIR}/tests/emulated ${CMAKE_SOURCE_DIR})
target_compile_definitions(kvq_emulated PRIVATE SIMDE_NO_INLINE V_UNROLL= PANEL_ROWS=4)
target_link_libraries(kvq_emulated PRIVATE kvq_flags)
target_compile_options(kvq_emulated PRIVATE -O1 -Wno-psabi)
add_executable(check_kernels_emulated $<TARGET_OBJECTS:check_kernels> $<TARGET_OBJECTS:kvq_emulated>)
target_link_libraries(check_kernels_emulated PRIVATE kvq_flags kvq_kernels)
add_test(NAME check_kernels_emulated COMMAND check_kernels_emulated --sample=8 --expect=generic,avxvnni,avx512,amx) # all cases: a minute
set_tests_properties(check_kernels_emulated PROPERTIES TIMEOUT 900 COST 90)
