# locus_embed(OUTPUT HEADER NAMESPACE FILES...): text files become string constants of the program.
#
#   locus_embed(${build_folder}/page.cpp locus/report/page.h locus::report page/style.css)
#
# writes, at build time and again whenever a file changes, a source that includes HEADER and defines
# `const std::string_view kStyleCss` there: k + the file's name in camel case. HEADER, written by
# hand, declares them. The same file is the script that the build runs (cmake -P).

function(locus_embed output header namespace)
  set(inputs)
  foreach(file ${ARGN})
    list(APPEND inputs ${CMAKE_CURRENT_SOURCE_DIR}/${file})
  endforeach()
  string(REPLACE ";" "|" joined "${inputs}")
  get_filename_component(folder ${output} DIRECTORY)
  file(MAKE_DIRECTORY ${folder})
  set(script ${PROJECT_SOURCE_DIR}/cmake/LocusEmbed.cmake)
  add_custom_command(OUTPUT ${output}
    COMMAND ${CMAKE_COMMAND} -DOUTPUT=${output} -DHEADER=${header} -DNAMESPACE=${namespace}
            -DINPUTS=${joined} -P ${script}
    DEPENDS ${inputs} ${script} VERBATIM)
endfunction()

# page/style.css -> kStyleCss
function(locus_embed_name file result)
  get_filename_component(name ${file} NAME)
  string(REGEX MATCHALL "[A-Za-z0-9]+" words ${name})
  set(joined k)
  foreach(word ${words})
    string(SUBSTRING ${word} 0 1 first)
    string(SUBSTRING ${word} 1 -1 rest)
    string(TOUPPER ${first} first)
    string(APPEND joined ${first}${rest})
  endforeach()
  set(${result} ${joined} PARENT_SCOPE)
endfunction()

if(CMAKE_SCRIPT_MODE_FILE)
  set(close ")LOCUS_EMBED\"")
  string(REPLACE "|" ";" INPUTS "${INPUTS}")
  file(WRITE ${OUTPUT} "#include \"${HEADER}\"\n\nnamespace ${NAMESPACE} {\n")
  foreach(input ${INPUTS})
    file(READ ${input} content)
    string(FIND "${content}" "${close}" clash)
    if(NOT clash EQUAL -1)
      message(FATAL_ERROR "${input} holds ${close}, which ends a raw string")
    endif()
    locus_embed_name(${input} name)
    file(APPEND ${OUTPUT} "\nconst std::string_view ${name} = R\"LOCUS_EMBED(${content}${close};\n")
  endforeach()
  file(APPEND ${OUTPUT} "\n}  // namespace ${NAMESPACE}\n")
endif()
