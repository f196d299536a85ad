#include "common/admin.h"

#include <utility>

namespace sigmacast {
namespace {

http::Response ready_response(const Readiness& readiness) {
    return {.status = readiness.ready ? 200 : 503, .body = readiness.json};
}

http::Response plain(int status, std::string text) {
    return {.status = status, .body = std::move(text), .content_type = "text/plain; charset=utf-8"};
}

}  // namespace

Admin::Admin(Loop& loop, std::uint16_t port, const Metrics& metrics,
             std::function<Readiness()> readiness, std::function<void()> before_metrics,
             http::Server::Handler more) {
    auto answer = [&metrics, readiness = std::move(readiness),
                   before_metrics = std::move(before_metrics), more = std::move(more)](
                      const http::Request& request, http::Server::Respond respond) {
        if (request.method == "GET" || request.method == "HEAD") {
            if (request.path == "/livez") {
                return respond(plain(200, "ok\n"));
            }
            if (request.path == "/readyz") {
                return respond(ready_response(readiness()));
            }
            if (request.path == "/metrics") {
                if (before_metrics) {
                    before_metrics();
                }
                return respond({.body = metrics.text(),
                                .content_type = "text/plain; version=0.0.4; charset=utf-8"});
            }
        }
        if (more) {
            return more(request, std::move(respond));
        }
        respond(plain(404, "Not found: this endpoint has /livez, /readyz and /metrics.\n"));
    };
    http::ServerOptions options;
    options.port = port;
    options.connections_max = 64;  // Probes and one scraper.
    options.body_bytes_max = 64u << 10;
    server_ = std::make_unique<http::Server>(loop, options, std::move(answer));
}

Admin::~Admin() = default;

Result<> Admin::start() {
    const Result<> started = server_->start();
    if (!started) {
        return started.error().within("admin endpoint");
    }
    return {};
}

void Admin::stop() {
    server_->stop();
}

std::uint16_t Admin::port() const {
    return server_->port();
}

}  // namespace sigmacast
