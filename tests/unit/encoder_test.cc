#include "edge/encoding.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include "common/codec.h"
#include "edge_fixture.h"

namespace sigmacast::edge {
namespace {

using namespace testing;

/// As a client compresses a message: `last` says of its block that it is the last one.
std::string deflated(std::string_view text, bool last = false) {
    z_stream stream{};
    EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY), Z_OK);
    std::string out(text.size() + 64, '\0');
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
    stream.avail_in = static_cast<uInt>(text.size());
    stream.next_out = reinterpret_cast<Bytef*>(out.data());
    stream.avail_out = static_cast<uInt>(out.size());
    EXPECT_EQ(deflate(&stream, last ? Z_FINISH : Z_SYNC_FLUSH), last ? Z_STREAM_END : Z_OK);
    out.resize(out.size() - stream.avail_out - (last ? 0 : 4));
    deflateEnd(&stream);
    return last ? out + '\0' : out;  // RFC 7692 7.2.3.4.
}

class EncoderTest : public ::testing::Test {
 protected:
    FramePtr value_frame(const std::string& json, Bytes data) {
        Message message = value({}, clock_.now());
        message.data = std::move(data);
        std::string text = R"({"type":"system.status","timestamp":"t","data":)" + json +
                           R"(,"origin":"nas","seq":7,"quality":"live"})";
        return frame(text, message.data);
    }
    Bytes encode(FramePtr made, Encoding as) {
        return encoder_.encode(std::move(made), as, clock_.now().mono);
    }
    static bool is_compressed(const Bytes& sent) {
        return (static_cast<unsigned char>(sent->front()) & 0x40u) != 0;
    }
    Clock clock_;
    Encoder encoder_;
};

TEST_F(EncoderTest, TextIsTheFrameItself) {
    const FramePtr made = frame(R"({"type":"pong"})");
    const Bytes text = encode(made, {});
    EXPECT_EQ(text.get(), &made->text());
}

TEST_F(EncoderTest, MsgpackHasTheMembersOfTheTextAndTheBytesOfTheProducer) {
    // What JSON cannot say: binary, an integer as a map's key's value in nine bytes, a float of
    // four.
    using namespace std::string_literals;
    const std::string data = "\x83"s + "\xa1"s + "b\xc4\x02\x00\xff"s + "\xa1"s +
                             "i\xcf\0\0\0\0\0\0\0\x05"s + "\xa1"s + "f\xca\x3f\xc0\0\0"s;
    const FramePtr made = value_frame(R"({"b":"AP8=","i":5,"f":1.5,"timestamp":1,"stale":false})",
                                      std::make_shared<const std::string>(data));
    const Bytes packed = encode(made, {.msgpack = true});
    EXPECT_EQ(static_cast<unsigned char>(packed->front()), 0x82) << "binary";
    const std::string_view payload = payload_of(*packed);
    EXPECT_NE(payload.find(data), std::string_view::npos) << "untouched";
    std::string json;
    ASSERT_TRUE(append_json(json, payload));
    auto said = boost::json::parse(json).as_object();
    EXPECT_EQ(said.at("data").as_object().at("i").to_number<int>(), 5);
    EXPECT_FALSE(said.at("data").as_object().contains("stale")) << "quality says it";
    said.erase("data");
    EXPECT_EQ(
        said,
        (boost::json::parse(
            R"({"type":"system.status","timestamp":"t","origin":"nas","seq":7,"quality":"live"})")));
}

TEST_F(EncoderTest, WhatHasNoBytesOfAProducerIsPackedWhole) {
    const std::string text = R"({"type":"hello","data":{"pos":3,"sources":[{"a":null}]}})";
    const Bytes packed = encode(frame(text), {.msgpack = true});
    std::string json;
    ASSERT_TRUE(append_json(json, payload_of(*packed)));
    EXPECT_EQ(json, text);
}

TEST_F(EncoderTest, EachEncodingIsMadeOnce) {
    const FramePtr made =
        frame(R"({"type":"a","data":{"text":")" + std::string(2'000, 'x') + "\"}}");
    for (const Encoding as : {Encoding{.deflate = true}, Encoding{.msgpack = true},
                              Encoding{.msgpack = true, .deflate = true}}) {
        const Bytes first = encode(made, as);
        EXPECT_EQ(encode(made, as), first);
    }
    EXPECT_EQ(encoder_.counters().deflated, 2u);
    EXPECT_EQ(encoder_.counters().msgpack, 2u);
}

TEST_F(EncoderTest, CompressedIsWhatItWasAndShorter) {
    for (const bool msgpack : {false, true}) {
        const FramePtr made =
            frame(R"({"type":"a","data":{"text":")" + std::string(70'000, 'x') + "\"}}");
        const Bytes plain = encode(made, {.msgpack = msgpack});
        const Bytes small = encode(made, {.msgpack = msgpack, .deflate = true});
        EXPECT_EQ(static_cast<unsigned char>(small->front()), msgpack ? 0xc2 : 0xc1);
        EXPECT_LT(small->size(), 300u);
        const auto back = encoder_.inflate(payload_of(*small), 100'000);
        ASSERT_TRUE(back) << back.error().message;
        EXPECT_EQ(*back, payload_of(*plain));
    }
}

TEST_F(EncoderTest, OfWhatIsOneClientsSoMuchIsCompressedASecond) {
    const std::string text = R"({"type":"a","data":{"text":")" + std::string(100'000, 'x') + "\"}}";
    const auto own = [&] { return encode(frame(text), {.deflate = true}); };
    for (int i = 0; i < 10; ++i) {
        EXPECT_TRUE(is_compressed(own()));
    }
    EXPECT_FALSE(is_compressed(own())) << "beyond a megabyte";
    const FramePtr shared = frame(text);
    EXPECT_TRUE(is_compressed(encode(shared, {.deflate = true}))) << "it is everyone's";
    clock_.advance(Seconds{1});
    EXPECT_TRUE(is_compressed(own()));
}

TEST_F(EncoderTest, WhatIsShortOrWouldGrowIsSentAsItIs) {
    const FramePtr small = frame(R"({"type":"pong"})");
    EXPECT_EQ(encode(small, {.deflate = true}).get(), &small->text());
    Random random(1);
    std::string bytes = std::string("\xc4\x80", 2);
    for (int i = 0; i < 128; ++i) {
        bytes += static_cast<char>(random.between(0, 255));
    }
    const FramePtr made = value_frame("{\"b\":\"" + std::string(200, 'x') + "\"}",
                                      std::make_shared<const std::string>("\x81\xa1"
                                                                          "b" +
                                                                          bytes));
    const Bytes packed = encode(made, {.msgpack = true, .deflate = true});
    EXPECT_EQ(static_cast<unsigned char>(packed->front()), 0x82);
}

TEST_F(EncoderTest, AClientsMessageIsInflated) {
    const std::string text = R"({"type":"ping"})";
    for (const bool last : {false, true}) {
        const auto said = encoder_.inflate(deflated(text, last), 1'000);
        ASSERT_TRUE(said) << said.error().message;
        EXPECT_EQ(*said, text);
    }
    EXPECT_EQ(*encoder_.inflate(deflated(""), 1'000), "");
    EXPECT_EQ(*encoder_.inflate(deflated(std::string(1'000, 'x')), 1'000), std::string(1'000, 'x'));
}

TEST_F(EncoderTest, WhatIsTooLongWithoutCompressionIsNoMoreThanThatInMemory) {
    const auto bomb = encoder_.inflate(deflated(std::string(10'000'000, ' ')), 1'000);
    ASSERT_FALSE(bomb);
    EXPECT_EQ(bomb.error().code, Errc::kTooLarge);
    EXPECT_EQ(encoder_.inflate(deflated(std::string(1'001, 'x')), 1'000).error().code,
              Errc::kTooLarge);
    EXPECT_TRUE(encoder_.inflate(deflated("after it"), 1'000));
}

TEST_F(EncoderTest, GarbageIsRefused) {
    EXPECT_EQ(encoder_.inflate("\xff\xff\xff", 1'000).error().code, Errc::kInvalid);
    EXPECT_TRUE(encoder_.inflate(deflated("after it"), 1'000));
}

TEST(AcceptDeflate, TheFirstOfferThatCanBeMetIsAnswered) {
    const std::string plain =
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    for (const char* offer :
         {"permessage-deflate", "permessage-deflate; client_max_window_bits",
          "permessage-deflate; client_max_window_bits=10", "x-other, permessage-deflate",
          "permessage-deflate;server_no_context_takeover ; client_no_context_takeover",
          "permessage-deflate; server_max_window_bits=10, permessage-deflate"}) {
        EXPECT_EQ(accept_deflate(offer), plain) << offer;
    }
    EXPECT_EQ(accept_deflate("permessage-deflate; server_max_window_bits=\"15\""),
              plain + "; server_max_window_bits=15");
    for (const char* offer :
         {"", "x-webkit-deflate-frame", "permessage-deflate; server_max_window_bits=10",
          "permessage-deflate; server_max_window_bits", "permessage-deflate; unknown",
          "permessage-deflate; client_max_window_bits=7",
          "permessage-deflate; client_max_window_bits=16",
          "permessage-deflate; client_max_window_bits; client_max_window_bits",
          "permessage-deflate; server_no_context_takeover=1"}) {
        EXPECT_EQ(accept_deflate(offer), std::nullopt) << offer;
    }
}

}  // namespace
}  // namespace sigmacast::edge
