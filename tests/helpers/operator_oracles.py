"""mmcv's operators, each as the loops that its definition is: slow, for small float64 tensors.

Those with a gradient are differentiable by torch.
"""

import math

import numpy as np
import torch


def _edge_bilinear(plane, y, x):
    """RoIAlign's sample of a plane: within a pixel of it, the nearest pixel inside counts."""
    height, width = plane.shape
    if not (-1 <= float(y) <= height and -1 <= float(x) <= width):
        return plane.new_zeros(())
    y, x = max(y, y * 0), max(x, x * 0)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down = y - top if bottom > top else y * 0
    across = x - left if right > left else x * 0
    upper = plane[top, left] * (1 - across) + plane[top, right] * across
    lower = plane[bottom, left] * (1 - across) + plane[bottom, right] * across
    return upper * (1 - down) + lower * down


def _zero_bilinear(plane, y, x):
    """Deformable convolution's sample of a plane: outside of it there are zeros.

    So there are, in mmcv, exactly a pixel before the first one, for the gradient, too.
    """
    height, width = plane.shape
    if y <= -1 or x <= -1:
        return plane.new_zeros(())
    top, left = math.floor(float(y)), math.floor(float(x))
    value = plane.new_zeros(())
    for row, down in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, across in ((left, 1 - (x - left)), (left + 1, x - left)):
            if 0 <= row < height and 0 <= column < width:
                value = value + plane[row, column] * down * across
    return value


def _samples(start, size, ratio, bins):
    """Coordinates of every bin's samples along one axis."""
    number = ratio if ratio > 0 else math.ceil(float(size) / bins)
    return [
        [start + size / bins * (bin_ + (i + 0.5) / number) for i in range(number)]
        for bin_ in range(bins)
    ]


def _stack(lists, shape, like):
    flat = [value if torch.is_tensor(value) else like.new_tensor(value) for value in lists]
    return torch.stack(flat).view(shape) if flat else like.sum() * like.new_zeros(shape)


def roi_align(maps, rois, output_size, scale, ratio, mode, aligned):
    values = []
    for image, *corners in rois.tolist():
        x1, y1, x2, y2 = (corner * scale - (0.5 if aligned else 0) for corner in corners)
        smallest = -math.inf if aligned else 1
        rows = _samples(y1, max(y2 - y1, smallest), ratio, output_size[0])
        columns = _samples(x1, max(x2 - x1, smallest), ratio, output_size[1])
        for plane in maps[int(image)]:
            for ys in rows:
                for xs in columns:
                    found = [_edge_bilinear(plane, y, x) for y in ys for x in xs]
                    if mode == 'max':
                        values.append(max(found) if found else -10000.0)
                    else:
                        values.append(sum(found) / max(len(found), 1))
    return _stack(values, (len(rois), maps.size(1), *output_size), maps)


def roi_pool(maps, rois, output_size, scale):
    height, width = maps.shape[2:]

    def cut(start, size, bin_, bins, pixels):
        low, high = (
            math.floor(start + bin_ * size / bins),
            math.ceil(start + (bin_ + 1) * size / bins),
        )
        return range(min(max(low, 0), pixels), min(max(high, 0), pixels))

    values = []
    for image, x1, y1, x2, y2 in rois.tolist():
        x, y, w, h = (v * scale for v in (x1, y1, x2 + 1 - x1, y2 + 1 - y1))
        for plane in maps[int(image)]:
            for i in range(output_size[0]):
                for j in range(output_size[1]):
                    seen = [
                        plane[row, column]
                        for row in cut(y, h, i, output_size[0], height)
                        for column in cut(x, w, j, output_size[1], width)
                    ]
                    values.append(max(seen) if seen and w > 0 and h > 0 else 0.0)
    return _stack(values, (len(rois), maps.size(1), *output_size), maps)


def deform_roi_pool(maps, rois, offset, output_size, scale, ratio, gamma):
    values = []
    for k, (image, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (corner * scale - 0.5 for corner in corners)
        rows = _samples(y1, y2 - y1, ratio, output_size[0])
        columns = _samples(x1, x2 - x1, ratio, output_size[1])
        for plane in maps[int(image)]:
            for i, ys in enumerate(rows):
                for j, xs in enumerate(columns):
                    move_x, move_y = 0, 0
                    if offset is not None:
                        move_x = gamma * (x2 - x1) * offset[k, 0, i, j]
                        move_y = gamma * (y2 - y1) * offset[k, 1, i, j]
                    found = [_edge_bilinear(plane, y + move_y, x + move_x) for y in ys for x in xs]
                    values.append(sum(found) / max(len(found), 1))
    return _stack(values, (len(rois), maps.size(1), *output_size), maps)


def deform_conv(maps, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups):
    """Deformable convolution; strides and so on are (vertical, horizontal)."""
    n, channels = maps.shape[:2]
    out_channels, in_channels, kernel_h, kernel_w = weight.shape
    height, width = offset.shape[2:]
    offset = offset.view(n, deform_groups, kernel_h, kernel_w, 2, height, width)
    if mask is not None:
        mask = mask.view(n, deform_groups, kernel_h, kernel_w, height, width)
    values = []
    for b in range(n):
        for d in range(out_channels):
            first = d // (out_channels // groups) * in_channels
            for row in range(height):
                for column in range(width):
                    value = maps.new_zeros(()) if bias is None else bias[d]
                    for c in range(in_channels):
                        group = (first + c) // (channels // deform_groups)
                        for i in range(kernel_h):
                            for j in range(kernel_w):
                                move = offset[b, group, i, j, :, row, column]
                                y = row * stride[0] - padding[0] + i * dilation[0] + move[0]
                                x = column * stride[1] - padding[1] + j * dilation[1] + move[1]
                                seen = _zero_bilinear(maps[b, first + c], y, x)
                                if mask is not None:
                                    seen = seen * mask[b, group, i, j, row, column]
                                value = value + seen * weight[d, c, i, j]
                    values.append(value)
    return _stack(values, (n, out_channels, height, width), maps)


def attention(value, shapes, starts, locations, weights):
    n, _, heads, channels = value.shape
    queries, points = locations.size(1), locations.size(4)
    result = []
    for b in range(n):
        for q in range(queries):
            for head in range(heads):
                for c in range(channels):
                    total = value.new_zeros(())
                    for level, (height, width) in enumerate(shapes.tolist()):
                        start = int(starts[level])
                        plane = value[b, start : start + height * width, head, c]
                        for point in range(points):
                            x, y = locations[b, q, head, level, point]
                            seen = _zero_bilinear(
                                plane.view(height, width), y * height - 0.5, x * width - 0.5
                            )
                            total = total + seen * weights[b, q, head, level, point]
                    result.append(total)
    return _stack(result, (n, queries, heads * channels), value)


def carafe(features, masks, kernel_size, groups, scale):
    n, channels, height, width = features.shape
    radius = kernel_size // 2
    values = []
    for b in range(n):
        for c in range(channels):
            group = c // (channels // groups)
            for row in range(height * scale):
                for column in range(width * scale):
                    total = features.new_zeros(())
                    for i in range(kernel_size):
                        for j in range(kernel_size):
                            y, x = row // scale + i - radius, column // scale + j - radius
                            if 0 <= y < height and 0 <= x < width:
                                place = (group * kernel_size + i) * kernel_size + j
                                total = total + features[b, c, y, x] * masks[b, place, row, column]
                    values.append(total)
    return _stack(values, (n, channels, height * scale, width * scale), features)


def _iou(a, b, offset=0):
    wide = max(min(a[2], b[2]) - max(a[0], b[0]) + offset, 0)
    high = max(min(a[3], b[3]) - max(a[1], b[1]) + offset, 0)
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    union = sum(areas) - wide * high
    # As float32, in which thresholds are compared.
    return float(np.float32(wide * high / union)) if union else math.nan


def overlaps(first, second, mode, offset):
    area = lambda box: (box[2] - box[0] + offset) * (box[3] - box[1] + offset)  # noqa: E731
    rows = []
    for a in first.tolist():
        for b in second.tolist():
            iou = _iou(a, b, offset)
            if mode == 'iof':  # shared = iou / (1 + iou) * (sum of areas)
                iou = iou / (1 + iou) * (area(a) + area(b)) / area(a)
            rows.append(iou)
    return torch.tensor(rows, dtype=first.dtype).view(len(first), len(second))


def nms(boxes, scores, threshold, offset):
    boxes = boxes.tolist()
    left = sorted(range(len(boxes)), key=lambda i: -float(scores[i]))
    kept = []
    while left:
        best, *others = left
        kept.append(best)
        left = [i for i in others if not _iou(boxes[best], boxes[i], offset) > threshold]
    return kept


def nms_match(dets, threshold):
    boxes = dets.tolist()
    left = sorted(range(len(boxes)), key=lambda i: -boxes[i][4])
    groups = []
    while left:
        best, *others = left
        near = [i for i in others if _iou(boxes[best], boxes[i]) >= threshold]
        groups.append([best, *near])
        left = [i for i in others if i not in near]
    return groups


def soft_nms(boxes, scores, threshold, sigma, min_score, method, offset):
    """Return which boxes are kept and their scores, best first; equal scores in any order."""
    left = {i: float(score) for i, score in enumerate(scores)}
    boxes = boxes.tolist()
    kept = []
    while left:
        best = max(left, key=left.get)
        kept.append((best, left.pop(best)))
        for i in list(left):
            iou = _iou(boxes[best], boxes[i], offset)
            if method == 'gaussian':
                left[i] *= math.exp(-(iou**2) / sigma)
            elif iou >= threshold:
                left[i] *= 1 - iou if method == 'linear' else 0
            if left[i] < min_score:
                del left[i]
    return kept


def sigmoid_focal(logits, target, weight, gamma, alpha):
    positive = target[:, None] == torch.arange(logits.size(1))
    signed = torch.where(positive, logits, -logits)
    share = torch.where(positive, alpha, 1 - logits.new_tensor(alpha))
    loss = -share * (-signed).sigmoid() ** gamma * torch.nn.functional.logsigmoid(signed)
    if weight is not None:
        loss = loss * torch.cat((weight, weight.new_ones(1)))[target][:, None]
    return loss


def softmax_focal(logits, target, weight, gamma, alpha):
    log = logits.log_softmax(1)
    rows = []
    for row, label in zip(log, target.tolist(), strict=True):
        if label < 0:
            rows.append(row.sum() * 0)
            continue
        loss = -alpha * (1 - row[label].exp()) ** gamma * row[label]
        rows.append(loss if weight is None else loss * weight[label])
    return torch.stack(rows) if rows else logits.sum(1)
