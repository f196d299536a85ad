// Whether two JSON values say the same: 1e10 and 10000000000 are one number, as the edge writes the
// second for the first.
#pragma once

#include <algorithm>
#include <boost/json.hpp>

namespace sigmacast::fuzz {

inline bool same_number(const boost::json::value& a, const boost::json::value& b) {
    if (a.is_double() || b.is_double()) {
        return a.to_number<double>() == b.to_number<double>();
    }
    return a == b;
}

inline bool same_json(const boost::json::value& a, const boost::json::value& b) {
    if (a.is_number() && b.is_number()) {
        return same_number(a, b);
    }
    if (a.is_array() && b.is_array()) {
        return std::equal(a.get_array().begin(), a.get_array().end(), b.get_array().begin(),
                          b.get_array().end(), same_json);
    }
    if (a.is_object() && b.is_object()) {
        const auto same_member = [](const auto& one, const auto& other) {
            return one.key() == other.key() && same_json(one.value(), other.value());
        };
        return std::equal(a.get_object().begin(), a.get_object().end(), b.get_object().begin(),
                          b.get_object().end(), same_member);
    }
    return a == b;
}

}  // namespace sigmacast::fuzz
