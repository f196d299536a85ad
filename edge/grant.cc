#include "edge/grant.h"

#include <algorithm>

namespace sigmacast::edge {

bool Grant::allows(std::string_view topic) const {
    return everything || topic == "heartbeat" ||
           std::any_of(topics.begin(), topics.end(), [&](std::string_view pattern) {
               // "agent.*": what begins with "agent." and goes on.
               return pattern.ends_with(".*")
                          ? topic.size() >= pattern.size() &&
                                topic.starts_with(pattern.substr(0, pattern.size() - 1))
                          : topic == pattern;
           });
}

}  // namespace sigmacast::edge
