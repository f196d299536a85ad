// The page at `/`, built into the program from web/index.html by embed.cmake, and the policy it is
// served under: its own inline script and style by their hashes, connections to its own edge, and
// nothing else. Thread safe (constant).
#pragma once

#include <string>
#include <string_view>

namespace sigmacast::edge {

std::string_view page();

/// Content-Security-Policy for a page: the hash of each inline <script> and <style>.
std::string page_policy(std::string_view html);

}  // namespace sigmacast::edge
