// What an edge answers over plain HTTP: the breakers, the state, health and readiness, metrics, the
// page. Everything is read from the Hub's cache as it is now. PROTOCOL.md lists the answers.
//
// Where a token is required, each request tells what its grant allows: without one the page and how
// the edge is, in a word; with one its topics; metrics where it allows everything.
//
// Of several io threads the one that is asked answers: of its own cache and, but for how many
// clients there are, of its own clients; /metrics holds the figures of all.
//
// Runs on: the loop. It changes nothing and keeps nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "common/http.h"
#include "common/metrics.h"
#include "common/tls.h"
#include "edge/hub.h"
#include "edge/upstream.h"
#include "edge/wire.h"

namespace sigmacast::edge {

class Rest {
 public:
    struct Parts {
        const Hub& hub;
        const Upstream& upstream;
        const Wire& wire;
        const Access& access;
        const http::ServerCounters& http;
        Metrics& metrics;
        Mono started;
        const tls::Server* tls = nullptr;  // Null: plain.
        Labels labels = {};                // Of each metric, where there are several threads.
        bool first = true;                 // It tells what is not one thread's.
    };

    explicit Rest(Parts parts);

    http::Response answer(const http::Request& request, Now now);
    /// As they are now; /metrics does this by itself. For the threads that were not asked.
    void update_metrics(Now now);

 private:
    http::Response route(const http::Request& request, Now now);
    http::Response answer_with(std::string_view path, const Grant& grant, Now now);
    /// {"status":..,"ready":..,"uplink":..}; for a grant the rest of it, too.
    [[nodiscard]] std::string health(const Grant* grant, Now now) const;
    http::Response page_response() const;
    [[nodiscard]] std::string breakers() const;
    [[nodiscard]] std::string topic_state(std::string_view topic, Now now) const;
    [[nodiscard]] std::string all_state(const Grant& grant, Now now) const;

    Parts parts_;
    std::uint64_t unauthorized_ = 0;
    std::string policy_;
};

}  // namespace sigmacast::edge
