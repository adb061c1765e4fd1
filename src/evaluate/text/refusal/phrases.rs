//! The phrases, as regular expressions over normalized text: lower case, plain apostrophes, half-width marks.

/// The continuation of a refusal within its clause: no further comma except before a reason.
macro_rules! tail {
    () => {
        "(?:[ ][^,;:]*)?(?:, (?:as|because|since|given|based|from|unless|without) .*)?"
    };
}

/// "cannot" and its kin.
macro_rules! unable {
    () => {
        "(?:cannot|can not|can't|could not|couldn't|am unable to|'m unable to|am not able to|'m not able to|was unable to|was not able to|unable to|not able to|won't be able to|will not be able to|must decline to|have to decline to)"
    };
}

/// Texts that were handed in.
macro_rules! given {
    () => {
        "(?:provided|given|available|retrieved|supplied|above) "
    };
}

/// Verbs of which a refusal says that they are not done.
macro_rules! lacks {
    () => {
        "(?: |)(?:does not|doesn't|do not|don't|did not|didn't|fails? to) (?:\\w+ly )?"
    };
}

/// The texts that an answer is to be drawn from.
macro_rules! sources {
    () => {
        "(?:the |this |these |any |your )?(?:(?:provided|given|available|retrieved|supplied|above|current) )?(?:context|contexts|passage|passages|document|documents|text|texts|information|source|sources|excerpt|excerpts|search results?)(?: (?:provided|given|available|above|i have))?"
    };
}

macro_rules! zh_unable {
    () => {
        "(?:无法|不能|没法|没办法|没有办法|無法|沒法|未能)(?:给出|得出|做出|作出)?(?:准确|直接|确切|明确|準確)?(?:地|的)?"
    };
}

macro_rules! zh_sources {
    () => {
        "(?:(?:所|已|该|此|这些|这篇|本|您|你|以上|上述|现有|給定|给定|目前)*(?:提供|给出|检索到|給出|有)?的?)?(?:上下文|信息|资料|文档|文本|文章|文中|题目|材料|内容|段落|背景|參考|参考资料|資訊|資料|文檔|文件|知识库)"
    };
}

/// Whole clauses that decline.
pub(super) const REFUSALS: [&str; 28] = [
    concat!(
        "(?:i )?(?:really |honestly |just |simply )?(?:don't|do not|didn't) know(?: (?:the|how|what|when|where|who|why|if|whether|that|about|this|which|enough|for sure|based|from)\\b",
        tail!(),
        ")?"
    ),
    concat!(
        "i(?:'m| am) not (?:sure|certain)(?: (?:about|what|how|when|where|who|why|if|whether|which|of)\\b",
        tail!(),
        ")?"
    ),
    "i have no (?:idea|information|knowledge|clue|answer)(?: (?:about|of|on|what|how|who|when|where|why|whether)\\b[^,;:]*)?",
    concat!(
        "i(?: |)",
        unable!(),
        " (?:\\w+ly )?(?:answer|respond|help|assist|determine|comply|say|tell|confirm|verify|fulfil|fulfill|discuss|comment)\\b",
        tail!()
    ),
    concat!(
        "i(?: |)",
        unable!(),
        " (?:provide|give|offer|find|locate|see|access|share)\\b[^,;:]*\\b(?:answers?|information|advice|response|details?|data|mention|that|this|it|opinions?)\\b",
        tail!()
    ),
    concat!(
        unable!(),
        " (?:answer|respond|determine|say|help|tell|comply|be (?:determined|answered|inferred))\\b",
        tail!()
    ),
    "i (?:don't|do not) have (?:access to|(?:any |enough |sufficient |the |that |specific |relevant |more )*(?:information|context|data|details|knowledge|answer))\\b[^,;:]*",
    concat!(
        "(?:it|this|that|the question|the answer|your question|this question|they)(?: |)(?:cannot|can't|can not|could not|couldn't) be (?:determined|answered|inferred|known|found|established|derived)\\b",
        tail!()
    ),
    concat!(
        "(?:it is|it's|it was) (?:not possible|impossible|unclear|unknown|not clear)(?: (?:to (?:answer|determine|say|tell|know|infer|establish)|from|in)\\b|$)",
        tail!()
    ),
    concat!(
        "(?:the |this |these )?",
        given!(),
        sources!(),
        lacks!(),
        "(?:contain|provide|include|have|give|offer|cover)\\b",
        tail!()
    ),
    concat!(
        sources!(),
        lacks!(),
        "(?:mention|specify|state|say|answer|address|discuss|indicate|explain)\\b",
        tail!()
    ),
    concat!(
        sources!(),
        lacks!(),
        "(?:contain|provide|include|have|give|offer|cover)\\b[^,;:]*\\b(?:information|answers?|details?|mention|that|this|it|data)\\b",
        tail!()
    ),
    concat!(sources!(), " (?:is|are) (?:not sufficient|insufficient|not enough)\\b", tail!()),
    concat!(
        "there(?: is| was| are|'s) (?:no|not enough|insufficient) (?:enough |sufficient |relevant |specific |such )*(?:information|context|mention|details|data)\\b",
        tail!()
    ),
    concat!(
        "there (?:isn't|aren't|wasn't|is not|are not|was not) (?:any |enough |sufficient |relevant |specific )*(?:information|context|mention|details|data)\\b",
        tail!()
    ),
    concat!(
        "(?:not enough|insufficient|no) (?:relevant |specific )?(?:information|context|data|details)(?: (?:available|provided|given|found|about|on|to (?:answer|determine|say)))?",
        tail!()
    ),
    concat!(
        "(?:no|not enough|insufficient) (?:relevant |specific )?(?:information|details|data|mention|answer) (?:is|was|are|were|could be|can be) (?:available|provided|given|found|mentioned|made)\\b",
        tail!()
    ),
    concat!(
        "the (?:answer|information|question)(?: |)(?:is|isn't|is not|was not|wasn't|cannot be|can't be|could not be) (?:not )?(?:in|provided|available|found|given|stated|mentioned|contained|answerable|answered|determined)\\b",
        tail!()
    ),
    "(?:not (?:known|mentioned|specified|provided|stated|available|given|applicable|answerable|sure|in the (?:context|text|documents?))|unknown|unanswerable|undetermined|unspecified|n/a|no answer|none given|no idea|no comment|idk|dunno|the answer is (?:unknown|not known|unclear))(?: (?:in|by|from) [^,;:]*)?",
    // Chinese from here.
    "(?:我|我们|我們)?(?:也|真的|实在|暂时|目前|还)*(?:不知道|不清楚|不太清楚|不了解|不太了解|不太确定|不确定|不確定|不晓得|不明白)(?:(?:这个|该|此|您的|你的|相关|具体|這個|确切|正确|是否|怎么|如何|什么|谁|哪|它|他|她)[^,;:]{0,30})?",
    concat!(
        "(?:我|我们|我們)?(?:暂时|目前|还|也|仍)*",
        zh_unable!(),
        "(?:回答|作答|解答|答复|回复|答覆|确定|確定|判断|判斷|得知|获知|推断|确认|确认|知道|回應|回应)(?:(?:这个|这些|这|该|此|您的|你的|您|你|上述|相关|有关|关于|具体|這個|是否|到底)?[^,;:的]{0,20}(?:的)?(?:问题|答案|信息|内容|日期|时间|提问|問題)?)?"
    ),
    concat!(
        "(?:我|我们|我們)?(?:暂时|目前|还|也)*",
        zh_unable!(),
        "(?:提供|给出|找到|查到|获取|讨论|协助|帮助|满足|访问|提供|分享)(?:您|你)?[^,;:]{0,24}(?:信息|答案|建议|帮助|内容|回答|请求|要求|意见|服务|資訊|数据|您|你|协助|话题)"
    ),
    "(?:我|我们|我們)?(?:暂时|目前|还|也)*(?:没有|未|没|未能|并未|沒有)(?:找到|查到|检索到|发现|获得|获取|掌握)?(?:到)?(?:任何|足够|充足|相关|有关|关于|具体|更多|的|[^,;:]{0,12}的)*(?:信息|资料|答案|数据|上下文|內容|内容|資訊)(?:(?:来|以|可以|能够|去)?(?:回答|确定|判断|解答|支持)[^,;:]{0,20})?",
    concat!(
        zh_sources!(),
        "(?:中|里|裡|内|当中|本身)?(?:也|都|均|并|並)?(?:没有|并没有|未|并未|没|未曾|並未|沒有|无)(?:明确|具体|直接|有|任何)*(?:提及|提到|说明|给出|提供|涉及|足够|充分|记载|指出|描述|讨论|介绍|相关信息|相关内容|答案|信息|說明)[^,;:]{0,30}"
    ),
    concat!(
        zh_sources!(),
        "(?:中|里|裡|内|当中|本身)?(?:也|都|均|并|並)?(?:(?:没有|并没有|未|并未|没|不)(?:直接)?(?:包含|包括|提供)[^,;:]{0,24}(?:信息|内容|答案|資訊|资料)|不足以[^,;:]{0,24})"
    ),
    concat!(
        "(?:根据|从|按照|依据|基于|依照|根據)",
        "[^,;:]{0,24}",
        zh_unable!(),
        "(?:回答|确定|判断|得知|推断|确认|得出|知道|看出|確定|判斷)[^,;:的]{0,20}(?:的)?(?:问题|答案|信息|内容|結論|结论)?"
    ),
    "(?:这个|该|此|您的|你的|這個|上述)?问题(?:我|我们)?(?:暂时|目前)*(?:无法|不能|没法)(?:回答|解答|确定|答复)",
    "(?:信息|资料|上下文|资讯)(?:不足|不够|不充分|缺失)(?:以(?:回答|确定|判断)[^,;:]{0,16})?|未知|不详|不明|无答案|没有答案|无可奉告|未提及|未提到|未说明|暂无(?:相关|有关|该)*(?:信息|资料|答案|数据)|(?:没有|无)(?:相关|有关)*(?:信息|资料|记录|内容)",
];

/// Clauses that say nothing of the matter.
pub(super) const COURTESIES: [&str; 8] = [
    "(?:please|feel free|kindly|let me know|if you|could you|would you|can you|do you have)\\b.*",
    "(?:i can|i could|i'd be (?:happy|glad)|i would be (?:happy|glad)|i'll be (?:happy|glad)|i am happy|i'm happy|happy to|is there anything|you (?:may|might|could|can) (?:want to |try |wish to )?(?:check|consult|ask|contact|provide|rephrase|look|refer|search))\\b.*(?:help|assist|question|information|context|details|ask|consult|contact|check|rephrase|else|professional|provide)\\b.*",
    "(?:sorry|i'm sorry|i am sorry|apologies|my apologies|i apologi[sz]e)(?: (?:for|about) .*)?",
    "(?:thanks|thank you)(?: for .*)?",
    "(?:如果|如|若|倘若)(?:您|你)?(?:有|能|可以|需要|还有|愿意)?.*(?:请|告诉|提供|告知|帮助|联系|咨询|补充|乐意).*",
    "(?:请|請|您可以|你可以|建议您|建议你)(?:您|你)?(?:尝试|试着)?(?:提供|咨询|告诉|告知|查阅|参考|补充|联系|随时|重新|换|諮詢|查询|说明).*",
    "(?:抱歉|对不起|很抱歉|非常抱歉|不好意思|很遗憾|對不起|谢谢|感谢).{0,10}",
    "我(?:会|可以|很乐意|将)(?:尽力|继续|为您|帮您|帮助您|为你|帮你|帮助你).{0,20}",
];

/// Words that may precede a refusal in its clause, or stand alone between two commas.
pub(super) const OPENINGS: [&str; 12] = [
    "(?:i'm|i am|we're|we are)? ?(?:very |so |really |deeply )?(?:sorry|afraid)(?: that)?[,.;:! -]*(?:but )?",
    "(?:my )?(?:apologies|i apologi[sz]e)[,.;:! -]*(?:but )?",
    "(?:unfortunately|regrettably|honestly|hmm|well|no|oh|actually|currently)(?:[,.:! ]+|$)",
    "(?:as an? |being an? )(?:ai|artificial intelligence|large language|language|virtual|chat)[^,]*(?:,[ ]*|$)",
    "(?:based|going|relying) (?:solely |only |purely )?on [^,]*(?:,[ ]*|$)",
    concat!("(?:from|given|according to|in|with|using|as|since|because) ", sources!(), "(?:,[ ]*|$)"),
    "(?:i (?:believe|think|regret) (?:that )?|it (?:seems|appears) (?:that )?|(?:as|since|because) )",
    "(?:the )?answer[:] ?",
    "(?:非常|很|十分|真的|实在)?(?:抱歉|对不起|遗憾|不好意思|對不起|遺憾|可惜)[,.;:! ]*",
    "作为(?:一个|一名|一款|一位)?(?:ai|人工智能|大型?语言|语言|虚拟)[^,]*(?:,[ ]*|$)",
    "(?:根据|基于|从|按照|依据|依照|根據|鉴于|由于|就)[^,]*(?:信息|上下文|资料|文档|内容|文本|材料|文章|段落|来看|而言|資訊|資料)(?:来看|中|里|而言)?(?:,[ ]*|$)",
    "(?:答案|回答|答)[:] ?",
];

/// Words that end a clause inside a sentence, after which another clause may make a statement.
pub(super) const TURNS: &str = concat!(
    "[,;:] ?(?:but|so|however|therefore|yet|though|although|hence|thus|nevertheless|still)\\b,? ?",
    "| (?:but|however) ",
    "|[,;] ?(?:但是|但|不过|然而|可是|因此|所以|故|因而|不過|故此)",
);
