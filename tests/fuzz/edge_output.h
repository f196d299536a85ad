// What every frame that an edge sends must be: complete, unmasked, the shortest header, JSON in
// UTF-8, and an envelope.
#pragma once

#include <boost/json.hpp>
#include <string_view>

#include "tests/fuzz/fuzz.h"

namespace sigmacast::fuzz {

inline std::string_view payload_of(std::string_view frame) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(frame[i]); };
    require(frame.size() >= 2 && byte(0) == 0x81, "a frame is one whole text frame");
    std::size_t header = 2;
    std::uint64_t length = byte(1);
    if (length >= 126) {  // Also where it is masked, which no length below fits.
        require(length < 128, "a server's frame is not masked");
        const std::size_t bytes = length == 126 ? 2 : 8;
        header += bytes;
        require(frame.size() >= header, "a frame has its whole header");
        length = 0;
        for (std::size_t i = 2; i < header; ++i) {
            length = length << 8 | byte(i);
        }
        require(length >= (bytes == 2 ? 126u : 65'536u), "the shortest form of the length");
    }
    require(frame.size() - header == length, "the length is right");
    return frame.substr(header);
}

inline boost::json::object check_frame(std::string_view frame) {
    const std::string_view text = payload_of(frame);
    require(is_utf8(text), "what is sent is UTF-8", text);
    boost::json::parse_options options;
    options.max_depth = 64;
    boost::system::error_code ec;
    const boost::json::value value =
        boost::json::parse(text, ec, boost::json::storage_ptr(), options);
    require(!ec && value.is_object(), "what is sent is a JSON object", text);
    const boost::json::object& object = value.get_object();
    const auto is_text = [&](const char* name) {
        return object.contains(name) && object.at(name).is_string();
    };
    require(is_text("type") && is_text("timestamp"), "it has type and timestamp", text);
    return object;
}

}  // namespace sigmacast::fuzz
