// The admin endpoint of a daemon, on loopback alone: /livez (200 while the loop runs), /readyz (200
// or 503, with the program's own JSON) and /metrics. HEAD works too. Runs on: the loop.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/http.h"
#include "common/loop.h"
#include "common/metrics.h"
#include "common/result.h"

namespace sigmacast {

struct Readiness {
    bool ready = false;
    std::string json = "{}";  // An object: what is ready, what is not, and why.
};

class Admin {
 public:
    /// `readiness` is called on the loop for each /readyz. `before_metrics`, where given, is called
    /// before each /metrics, to set gauges that are cheaper to compute then. `more` answers other
    /// paths; without it they are 404. Port 0: the system chooses.
    Admin(Loop& loop, std::uint16_t port, const Metrics& metrics,
          std::function<Readiness()> readiness, std::function<void()> before_metrics = nullptr,
          http::Server::Handler more = nullptr);
    ~Admin();
    Admin(const Admin&) = delete;
    Admin& operator=(const Admin&) = delete;

    /// Errors: kUnavailable, naming the address.
    Result<> start();
    void stop();
    [[nodiscard]] std::uint16_t port() const;

 private:
    std::unique_ptr<http::Server> server_;
};

}  // namespace sigmacast
