#include "huffman_code.h"

#include <algorithm>
#include <stdexcept>

namespace fastload {
namespace {

// A leaf or a package of the package-merge algorithm, with its symbols and frequency.
struct Package {
    uint64_t weight;
    int symbol;       // of a leaf, else -1
    int left, right;  // of a package
};

void add_length(const std::vector<Package>& packages, int index, CodeLengths& lengths) {
    const Package& package = packages[size_t(index)];
    if (package.symbol >= 0) {
        ++lengths[size_t(package.symbol)];
        return;
    }
    add_length(packages, package.left, lengths);
    add_length(packages, package.right, lengths);
}

class NibbleWriter {
public:
    explicit NibbleWriter(std::vector<uint8_t>& out) : out_(out) {}
    void put(int nibble) {
        if (half_)
            out_.back() = uint8_t(out_.back() | nibble << 4);
        else
            out_.push_back(uint8_t(nibble));
        half_ = !half_;
    }

private:
    std::vector<uint8_t>& out_;
    bool half_ = false;
};

class NibbleReader {
public:
    NibbleReader(const uint8_t*& data, const uint8_t* end) : data_(data), end_(end) {}
    int get() {
        if (half_) {
            half_ = false;
            return data_[-1] >> 4;
        }
        if (data_ == end_) throw std::invalid_argument("code lengths are cut short");
        half_ = true;
        return *data_++ & 15;
    }

private:
    const uint8_t*& data_;
    const uint8_t* end_;
    bool half_ = false;
};

}  // namespace

// Package-merge (Larmore and Hirschberg, 1990): in each of `limit` rounds the cheapest packages are paired and merged
// with the leaves. The first 2n - 2 entries of the last list give the length of each code.
CodeLengths choose_lengths(const std::array<uint32_t, 256>& frequency, int limit) {
    std::vector<Package> packages;
    for (int symbol = 0; symbol < 256; ++symbol)
        if (frequency[size_t(symbol)]) packages.push_back({frequency[size_t(symbol)], symbol, -1, -1});
    if (packages.size() < 2) {
        const int only = packages.empty() ? 0 : packages[0].symbol;
        packages.assign({{1, only, -1, -1}, {1, only == 0, -1, -1}});
    }
    const size_t leaves = packages.size();
    const auto lighter = [&packages](int a, int b) { return packages[size_t(a)].weight < packages[size_t(b)].weight; };
    std::vector<int> sorted(leaves), row, pairs, merged;
    for (size_t i = 0; i < leaves; ++i) sorted[i] = int(i);
    std::stable_sort(sorted.begin(), sorted.end(), lighter);
    row = sorted;
    for (int round = 1; round < limit; ++round) {
        pairs.clear();
        for (size_t i = 0; i + 1 < row.size(); i += 2) {
            const uint64_t weight = packages[size_t(row[i])].weight + packages[size_t(row[i + 1])].weight;
            pairs.push_back(int(packages.size()));
            packages.push_back({weight, -1, row[i], row[i + 1]});
        }
        merged.resize(sorted.size() + pairs.size());
        std::merge(sorted.begin(), sorted.end(), pairs.begin(), pairs.end(), merged.begin(), lighter);
        row.swap(merged);
    }
    CodeLengths lengths{};
    for (size_t i = 0; i < 2 * leaves - 2; ++i) add_length(packages, row[i], lengths);
    return lengths;
}

SymbolOrder order_symbols(const CodeLengths& lengths) {
    int place[huffman_max_length + 2] = {};  // per length: where its next symbol goes
    for (uint8_t length : lengths) ++place[length ? length + 1 : 0];
    place[0] = place[1] = 0;
    for (int length = 1; length <= huffman_max_length; ++length) place[length + 1] += place[length];
    SymbolOrder order{place[huffman_max_length + 1], {}};
    for (int symbol = 0; symbol < 256; ++symbol)
        if (lengths[size_t(symbol)]) order.symbol[size_t(place[lengths[size_t(symbol)]]++)] = uint8_t(symbol);
    return order;
}

void write_lengths(const CodeLengths& lengths, std::vector<uint8_t>& out) {
    int highest = 255;
    while (lengths[size_t(highest)] == 0) --highest;
    out.push_back(uint8_t(highest));
    NibbleWriter nibbles(out);
    for (int symbol = 0; symbol <= highest; ++symbol) {
        nibbles.put(lengths[size_t(symbol)]);
        if (lengths[size_t(symbol)]) continue;
        int more = 0;
        while (more < 15 && lengths[size_t(symbol + 1 + more)] == 0) ++more;
        nibbles.put(more);
        symbol += more;
    }
}

CodeLengths read_lengths(const uint8_t*& data, const uint8_t* end) {
    if (data == end) throw std::invalid_argument("code lengths are cut short");
    const int highest = *data++;
    CodeLengths lengths{};
    NibbleReader nibbles(data, end);
    uint32_t used = 0;  // of the code space, in units of the longest code
    for (int symbol = 0; symbol <= highest; ++symbol) {
        const int length = nibbles.get();
        if (length > huffman_max_length) throw std::invalid_argument("a code is too long");
        if (length == 0) {
            symbol += nibbles.get();
            continue;
        }
        lengths[size_t(symbol)] = uint8_t(length);
        used += 1u << (huffman_max_length - length);
    }
    if (used != 1u << huffman_max_length) throw std::invalid_argument("the codes are not complete");
    return lengths;
}

}  // namespace fastload
