# SPDX-License-Identifier: Apache-2.0
"""The 27 coarse classes of COCO-Stuff (IIC, PiCIE, STEGO) and mmseg's 171 labels in terms of them."""

classes = (
    *('electronic', 'appliance', 'food thing', 'furniture thing', 'indoor', 'kitchen', 'accessory', 'animal'),
    *('outdoor', 'person', 'sports', 'vehicle', 'ceiling', 'floor', 'food stuff', 'furniture stuff'),
    *('raw material', 'textile', 'wall', 'window', 'building', 'ground', 'plant', 'sky', 'solid'),
    *('structural', 'water'),
)
# As far apart as 27 colours get on a screen.
palette = [
    *([224, 0, 96], [128, 96, 192], [224, 0, 224], [224, 160, 160], [192, 224, 32], [0, 224, 160]),
    *([128, 0, 96], [224, 160, 0], [32, 128, 96], [224, 64, 0], [0, 224, 0], [96, 0, 160]),
    *([192, 224, 224], [128, 128, 32], [224, 0, 160], [128, 224, 96], [128, 32, 32], [224, 128, 192]),
    *([192, 224, 160], [0, 192, 224], [128, 96, 128], [160, 96, 32], [0, 128, 32], [128, 160, 224]),
    *([64, 64, 32], [0, 64, 96], [0, 0, 224]),
]
# Things by groups, labels 0 to 79: person, vehicle, outdoor, animal, accessory, sports, kitchen, food,
# furniture, electronic, appliance, indoor. Then the stuff in alphabetical order, 80 to 170.
label_map = [
    *([9] * 1 + [11] * 8 + [8] * 5 + [7] * 10 + [6] * 5 + [10] * 10 + [5] * 7 + [2] * 10),
    *([3] * 6 + [0] * 6 + [1] * 5 + [4] * 7),
    *(17, 17, 22, 20, 20, 22, 15, 25, 16, 13, 12, 12, 17, 17, 23, 15, 15, 17, 15, 21, 15, 25, 13),
    *(13, 13, 13, 13, 22, 26, 14, 14, 15, 22, 21, 21, 24, 20, 22, 15, 17, 16, 15, 22, 24, 21, 17),
    *(25, 16, 21, 17, 22, 16, 21, 21, 25, 21, 26, 21, 24, 20, 17, 14, 21, 26, 15, 23, 20, 21, 24),
    *(15, 24, 22, 25, 15, 20, 17, 17, 22, 14, 18, 18, 18, 18, 18, 18, 18, 26, 26, 19, 19, 24),
]
