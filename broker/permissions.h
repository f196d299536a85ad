// What a program may do once its key has let it in: the repair socket is for producers and edges
// alike, and a producer may be bound to its origins. So a stolen key of an edge publishes nothing,
// and that of one producer nothing in another's name. Without [curve] everything is allowed: then
// only this host's programs come this far. Runs on: the loop.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "common/bus_gate.h"
#include "common/message.h"
#include "common/protocol.h"
#include "common/settings.h"

namespace sigmacast::broker {

class Permissions {
 public:
    explicit Permissions(const CurveSettings& settings);

    /// Why it may not do this, for its own log; empty: it may. `client` is the name that the bus
    /// gives with each message. What is refused is counted and, at a bounded rate, logged.
    std::string objection(const std::string& client, const Message& message, Mono now);
    std::string objection(const std::string& client, const protocol::Any& request, Mono now);
    [[nodiscard]] std::uint64_t refused() const { return refused_; }

 private:
    std::string to_publish(const std::string& client, const std::string& origin, Mono now);
    std::string to_read(const std::string& client, Mono now);
    std::string refuse(const std::string& client, const std::string& what, Mono now);

    const bool on_;
    std::map<std::string, CurveClientSettings> clients_;
    bus::LogLimit limit_;
    std::uint64_t refused_ = 0;
};

}  // namespace sigmacast::broker
