# The ROS 2 wheels were built in a container and name its Python headers, which exist nowhere else; our build finds its own.
# Given as CMAKE_PROJECT_INCLUDE, so that the interface packages stay canonical.
function(strip_missing_python_includes)
  get_property(imported DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS imported)
    get_target_property(includes ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(includes MATCHES "/opt/python/")
      list(FILTER includes EXCLUDE REGEX "^/opt/python/")
      set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${includes}")
    endif()
  endforeach()
endfunction()
cmake_language(DEFER CALL strip_missing_python_includes)
