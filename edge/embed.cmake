# Makes a .cc with the bytes of a file: cmake -DIN=index.html -DOUT=page.cc -DNAME=kPage -P embed.cmake
file(READ ${IN} hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
string(REGEX REPLACE "((0x[0-9a-f][0-9a-f],){20})" "\\1\n    " bytes "${bytes}")
file(WRITE ${OUT}
  "// Made from ${IN}; do not edit.\n#include \"edge/page.h\"\n\nnamespace sigmacast::edge {\nnamespace {\n"
  "constexpr unsigned char kBytes[] = {\n    ${bytes}\n    0x00};\n}  // namespace\n\n"
  "std::string_view page() {\n    return {reinterpret_cast<const char*>(kBytes), sizeof kBytes - 1};\n}\n\n"
  "}  // namespace sigmacast::edge\n")
