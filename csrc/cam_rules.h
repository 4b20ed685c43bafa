// The rules: how a layer's activations A and gradients G become a map. Written once for host and device, for one value
// at a time or for a vector of them; no torch header.
//
// A rule either gives every channel a weight, from sums over its positions,
//
//   static auto weight(sum, count)        sum(f) is the sum of f(a, g) over the `count` positions of the channel, or of
//                                         each of several channels
// and the map is sum_c weight_c A_c; or it gives every element its contribution, and the map is their sum over channels:
//
//   static V contribution(V a, V g)
//
// To add one: here, in `with_rule`, in camfast/reference.py and in camfast/_operands.py.
#pragma once

#include "cam_math.h"

namespace camfast {

// max(value, 0) that lets nothing disappear which is not finite: 0 * inf and 0 * NaN are NaN.
CAMFAST_HOST_DEVICE float positive_part(float value) {
  return value < 0 ? value * 0 : value;
}
CAMFAST_HOST_DEVICE double positive_part(double value) {
  return value < 0 ? value * 0 : value;
}

// Grad-CAM, Selvaraju et al. 2017: the mean gradient.
struct GradCam {
  static constexpr bool kElementwise = false;
  template <typename Acc, typename Sum>
  CAMFAST_HOST_DEVICE static auto weight(const Sum& sum, int64_t count) {
    return sum([](auto, auto g) { return g; }) / Acc(count);
  }
};

// Grad-CAM++, Chattopadhyay et al. 2018, equations 7 and 19, with the 1e-6 that pytorch-grad-cam has in the denominator.
struct GradCamPlusPlus {
  static constexpr bool kElementwise = false;
  template <typename Acc, typename Sum>
  CAMFAST_HOST_DEVICE static auto weight(const Sum& sum, int64_t) {
    const auto activation = sum([](auto a, auto) { return a; });
    return sum([activation](auto, auto g) {
      const auto p = positive_part(g);
      const auto squared = p * p;
      return p * squared / (squared * Acc(2) + squared * p * activation + Acc(1e-6));
    });
  }
};

// XGrad-CAM, Fu et al. 2020: the mean gradient weighted by the activation; 1e-7 keeps silent channels at zero.
struct XGradCam {
  static constexpr bool kElementwise = false;
  template <typename Acc, typename Sum>
  CAMFAST_HOST_DEVICE static auto weight(const Sum& sum, int64_t) {
    return sum([](auto a, auto g) { return a * g; }) / (sum([](auto a, auto) { return a; }) + Acc(1e-7));
  }
};

// LayerCAM, Jiang et al. 2021: every element weighted by its own positive gradient.
struct LayerCam {
  static constexpr bool kElementwise = true;
  template <typename V>
  CAMFAST_HOST_DEVICE static V contribution(V a, V g) {
    return positive_part(g) * a;
  }
};

// HiResCAM, Draelos and Carin 2020: every element weighted by its own gradient.
struct HiResCam {
  static constexpr bool kElementwise = true;
  template <typename V>
  CAMFAST_HOST_DEVICE static V contribution(V a, V g) {
    return g * a;
  }
};

// Elementwise Grad-CAM: HiResCAM of which every element keeps only what speaks for the class.
struct ElementwiseGradCam {
  static constexpr bool kElementwise = true;
  template <typename V>
  CAMFAST_HOST_DEVICE static V contribution(V a, V g) {
    return positive_part(g * a);
  }
};

// Not a rule but the lack of one: weights [N, C] come from the caller.
struct GivenWeights {
  static constexpr bool kElementwise = false;
};

enum class RuleId : int { kGradCam, kGradCamPlusPlus, kXGradCam, kLayerCam, kHiResCam, kElementwiseGradCam, kGivenWeights };
constexpr int kRuleCount = 7;
constexpr const char* kRuleNames[] = {"gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "elementwise"};

// Calls visit(Rule{}) with the type that `id` stands for.
template <typename Visit>
void with_rule(RuleId id, const Visit& visit) {
  switch (id) {
    case RuleId::kGradCam:
      return visit(GradCam{});
    case RuleId::kGradCamPlusPlus:
      return visit(GradCamPlusPlus{});
    case RuleId::kXGradCam:
      return visit(XGradCam{});
    case RuleId::kLayerCam:
      return visit(LayerCam{});
    case RuleId::kHiResCam:
      return visit(HiResCam{});
    case RuleId::kElementwiseGradCam:
      return visit(ElementwiseGradCam{});
    case RuleId::kGivenWeights:
      return visit(GivenWeights{});
  }
}

}  // namespace camfast
