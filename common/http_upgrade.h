// What http::Server hands over when a client asks for a WebSocket. Includes Asio: for edge/wire and
// edge/sse alone.
#pragma once

#include <string>

#include "common/http.h"
#include "common/transport.h"

namespace sigmacast::http {

struct Upgrade {
    Transport transport;  // To be moved from when taken over.
    std::string early;    // Bytes read past the request.
    const Request& request;
};

}  // namespace sigmacast::http
