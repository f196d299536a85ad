#include "broker/permissions.h"

#include <algorithm>
#include <variant>

#include "common/log.h"

namespace sigmacast::broker {
namespace {

bool has(const std::vector<std::string>& list, const std::string& item) {
    return std::find(list.begin(), list.end(), item) != list.end();
}

}  // namespace

Permissions::Permissions(const CurveSettings& settings) : on_(settings.used()) {
    for (const CurveClientSettings& client : settings.clients) {
        clients_[client.name] = client;
    }
}

std::string Permissions::objection(const std::string& client, const Message& message, Mono now) {
    return on_ ? to_publish(client, message.origin, now) : "";
}

std::string Permissions::objection(const std::string& client, const protocol::Any& request,
                                   Mono now) {
    if (!on_) {
        return {};
    }
    if (const auto* hello = std::get_if<protocol::Hello>(&request)) {
        return to_publish(client, hello->origin, now);
    }
    if (const auto* sync = std::get_if<protocol::Sync>(&request)) {
        return to_publish(client, sync->origin, now);
    }
    if (const auto* range = std::get_if<protocol::Range>(&request)) {
        return to_publish(client, range->origin, now);
    }
    return to_read(client, now);
}

std::string Permissions::to_publish(const std::string& client, const std::string& origin,
                                    Mono now) {
    const auto known = clients_.find(client);
    if (known == clients_.end() || !has(known->second.may, "publish")) {
        return refuse(client, "publish", now);
    }
    const auto& origins = known->second.origins;
    return origins.empty() || has(origins, origin) ? ""
                                                   : refuse(client, "publish as " + origin, now);
}

std::string Permissions::to_read(const std::string& client, Mono now) {
    const auto known = clients_.find(client);
    return known != clients_.end() && has(known->second.may, "read") ? ""
                                                                     : refuse(client, "read", now);
}

std::string Permissions::refuse(const std::string& client, const std::string& what, Mono now) {
    ++refused_;
    if (const auto left_out = limit_.pass(now)) {
        log_warn("a program wants what its [[curve.client]] does not say that it may",
                 {{"client", client}, {"wants_to", what}, {"left_out", *left_out}});
    }
    return "[[curve.client]] " + client + " may not " + what;
}

}  // namespace sigmacast::broker
