#include "edge/resume.h"

#include <algorithm>

namespace sigmacast::edge {

bool Resume::covers(std::string_view topic) const {
    const auto in = [&](const std::vector<std::string>& list, std::string_view name) {
        return std::find(list.begin(), list.end(), name) != list.end();
    };
    return in(topics, topic) || (in(topics, "*") && !in(except, topic));
}

}  // namespace sigmacast::edge
