# commit.cmake -DSOURCE= -DVERSION= -DOUTPUT=: writes a header with the commit that SOURCE is at, or
# with VERSION where SOURCE is no checkout of ours. Every build runs it; the file changes only where
# the answer does.
cmake_minimum_required(VERSION 3.25)
find_package(Git QUIET)
set(commit "")
if(GIT_FOUND AND EXISTS ${SOURCE}/.git)
  set(ENV{GIT_OPTIONAL_LOCKS} 0) # somebody may be about to commit
  execute_process(COMMAND ${GIT_EXECUTABLE} describe --always --dirty WORKING_DIRECTORY ${SOURCE}
                  OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
if(NOT commit)
  set(commit ${VERSION})
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT "#define DRAFTATTN_COMMIT \"${commit}\"\n" @ONLY)
