// What one client may see, as its token's roles have it: all topics, or those of a list of
// patterns. A default Grant is everything, for ever: what everyone has where no token is required.
//
// Pure; thread safe (constant). Whoever holds one enforces it: Hub for a session, Rest for a
// request.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/time.h"

namespace sigmacast::edge {

struct Grant {
    std::string subject = {};              // Whose it is; empty: nobody is named.
    bool everything = true;                // Then `topics` says nothing.
    std::vector<std::string> topics = {};  // "system.status", or "agent.*" for all below agent.
    std::optional<Wall> expires = {};      // nullopt: never.

    /// Heartbeats are everyone's: they tell nothing but that the connection lives.
    [[nodiscard]] bool allows(std::string_view topic) const;
};

}  // namespace sigmacast::edge
