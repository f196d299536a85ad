#include "producer/host_engine/json_problem.h"

#include <algorithm>
#include <utility>

namespace sigmacast::host_engine {
namespace {

constexpr int kDepthMax = 200;

constexpr std::string_view kValue = "Expecting value";
constexpr std::string_view kName = "Expecting property name enclosed in double quotes";
constexpr std::string_view kColon = "Expecting ':' delimiter";
constexpr std::string_view kComma = "Expecting ',' delimiter";
constexpr std::string_view kUnterminated = "Unterminated string starting at";
constexpr std::string_view kControl = "Invalid control character at";
constexpr std::string_view kEscape = "Invalid \\escape";
constexpr std::string_view kExtra = "Extra data";

struct TooDeep {};

/// Throws a JsonProblem, with `at` in bytes, at the first fault.
class Scanner {
 public:
    explicit Scanner(std::string_view text) : text_(text) {}

    void document() {
        blanks();
        value(0);
        blanks();
        if (!at_end()) {
            fail(kExtra);
        }
    }

 private:
    [[nodiscard]] bool at_end() const { return at_ >= text_.size(); }
    [[nodiscard]] char next() const { return at_end() ? '\0' : text_[at_]; }
    [[noreturn]] void fail(std::string_view what) const { throw JsonProblem{at_, what}; }

    bool take(char c) {
        if (at_end() || text_[at_] != c) {
            return false;
        }
        ++at_;
        return true;
    }
    void blanks() {
        while (!at_end() && std::string_view(" \t\n\r").find(next()) != std::string_view::npos) {
            ++at_;
        }
    }
    bool word(std::string_view text) {
        if (text_.substr(at_, text.size()) != text) {
            return false;
        }
        at_ += text.size();
        return true;
    }

    void value(int depth) {
        if (depth > kDepthMax) {
            throw TooDeep{};
        }
        if (take('{')) {
            return object(depth);
        }
        if (take('[')) {
            return array(depth);
        }
        if (next() == '"') {
            return string();
        }
        if (word("null") || word("true") || word("false") || word("NaN") || word("Infinity") ||
            word("-Infinity") || number()) {
            return;
        }
        fail(kValue);
    }

    void object(int depth) {
        blanks();
        if (take('}')) {
            return;
        }
        while (true) {
            if (next() != '"') {
                fail(kName);
            }
            string();
            blanks();
            if (!take(':')) {
                fail(kColon);
            }
            blanks();
            value(depth + 1);
            blanks();
            if (take('}')) {
                return;
            }
            if (!take(',')) {
                fail(kComma);
            }
            blanks();
        }
    }

    void array(int depth) {
        blanks();
        if (take(']')) {
            return;
        }
        while (true) {
            value(depth + 1);
            blanks();
            if (take(']')) {
                return;
            }
            if (!take(',')) {
                fail(kComma);
            }
            blanks();
        }
    }

    void string() {
        const std::size_t start = at_++;
        while (!take('"')) {
            if (at_end()) {
                throw JsonProblem{start, kUnterminated};
            }
            if (static_cast<unsigned char>(next()) < 0x20) {
                fail(kControl);
            }
            if (next() == '\\') {
                escape(start);
            } else {
                ++at_;
            }
        }
    }

    void escape(std::size_t start) {
        if (at_ + 1 >= text_.size()) {
            throw JsonProblem{start, kUnterminated};
        }
        if (std::string_view("\"\\/bfnrtu").find(text_[at_ + 1]) == std::string_view::npos) {
            fail(kEscape);
        }
        at_ += 2;
    }

    bool digits() {
        const std::size_t before = at_;
        while (next() >= '0' && next() <= '9') {
            ++at_;
        }
        return at_ > before;
    }

    /// Takes the longest number that there is: what follows it is for the caller to judge.
    bool number() {
        const std::size_t start = at_;
        take('-');
        if (!take('0') && !digits()) {
            at_ = start;
            return false;
        }
        std::size_t good = at_;
        if (take('.') && digits()) {
            good = at_;
        }
        at_ = good;
        if (take('e') || take('E')) {
            (void)(take('+') || take('-'));
            good = digits() ? at_ : good;
        }
        at_ = good;
        return true;
    }

    std::string_view text_;
    std::size_t at_ = 0;
};

std::size_t characters(std::string_view text) {
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u;
    }));
}

}  // namespace

std::optional<JsonProblem> json_problem(std::string_view text) {
    try {
        Scanner(text).document();
        return std::nullopt;
    } catch (const JsonProblem& problem) {
        return JsonProblem{characters(text.substr(0, problem.at)), problem.what};
    } catch (const TooDeep&) {
        return std::nullopt;
    }
}

}  // namespace sigmacast::host_engine
