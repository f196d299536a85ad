// A WebSocket client on the loop, for `sigmacast tail`: one connection, plain or through TLS,
// subprotocol sigmacast.v1.json, text messages. Beast stays in the .cc. Whoever made it decides
// about reconnecting. Runs on: the loop.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/loop.h"
#include "common/time.h"
#include "ops/cli/options.h"

namespace sigmacast::cli {

class WebSocket {
 public:
    /// Why a connection ended, or did not come about. `code` is the close code, 0 where there was
    /// none.
    struct Closed {
        std::uint16_t code = 0;
        int status = 0;  // Of HTTP, where it was no WebSocket that answered.
        std::string why;
        std::optional<Millis> retry_after = {};  // As the HTTP answer asks for.
    };
    struct Handlers {
        std::function<void()> on_open;
        std::function<void(std::string_view)> on_text;
        std::function<void(Closed)> on_closed;  // Once, unless close() came first.
    };

    /// Connects at once. Bounds: 10 s for connecting and handshakes, 20 s of silence, 16 MiB a
    /// message.
    /// `token`: sent as Authorization: Bearer; empty: none. `tls`: where `server` has it.
    WebSocket(Loop& loop, const Endpoint& server, const std::string& token,
              std::shared_ptr<tls::Client> tls, Handlers handlers);
    /// Drops the connection without ceremony, where close() was not called.
    ~WebSocket();
    WebSocket(const WebSocket&) = delete;
    WebSocket& operator=(const WebSocket&) = delete;

    /// After on_open; messages go out in order.
    void send(std::string text);
    /// Says goodbye (1000). Handlers are not called any more.
    void close();

 private:
    struct Impl;
    std::shared_ptr<Impl> impl_;
};

}  // namespace sigmacast::cli
