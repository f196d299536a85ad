# Everything comes from Debian's packages; ops/setup installs them. This file finds them and says what to do when
# one is missing. Boost is 1.81 on Debian 12 and 1.83 on Debian 13.
set(Boost_NO_WARN_NEW_VERSIONS ON)
if(POLICY CMP0167)
  cmake_policy(SET CMP0167 NEW)
endif()
find_package(Boost 1.81 REQUIRED COMPONENTS json url)
find_package(Threads REQUIRED)
find_package(OpenSSL REQUIRED)
find_library(CJOSE_LIBRARY cjose REQUIRED)  # Its pkg-config file wants headers that nothing here uses.
find_library(URING_LIBRARY uring REQUIRED)
find_package(SQLite3 REQUIRED)
find_package(cppzmq CONFIG REQUIRED)
find_package(spdlog CONFIG REQUIRED)
find_package(CLI11 CONFIG REQUIRED)
find_package(tomlplusplus CONFIG REQUIRED)
find_package(prometheus-cpp CONFIG REQUIRED)
find_package(GTest CONFIG REQUIRED)
find_package(zstd CONFIG REQUIRED)
find_package(ZLIB REQUIRED)

# Debian 12's libmsgpack-cxx-dev conflicts with Boost 1.81, so ops/setup unpacks its headers into build/deps there.
find_path(MSGPACK_INCLUDE_DIR msgpack.hpp
          PATHS ${CMAKE_SOURCE_DIR}/build/deps/msgpack/usr/include
          DOC "msgpack-c's C++ headers")
if(NOT MSGPACK_INCLUDE_DIR)
  message(FATAL_ERROR "msgpack.hpp was not found: run ops/setup, which installs what the build needs")
endif()
add_library(msgpack_headers INTERFACE)
target_include_directories(msgpack_headers SYSTEM INTERFACE ${MSGPACK_INCLUDE_DIR})
target_compile_definitions(msgpack_headers INTERFACE MSGPACK_NO_BOOST)

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()
